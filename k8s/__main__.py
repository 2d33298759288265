"""The launcher's command line: a table of commands; runs the named one.

A command's module is imported only when the command is named: `--help` and wrong flags answer at once.
"""

from __future__ import annotations

import functools
import gc
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from job import __version__
from job.config import Parser, parse_duration, usage_error
from job.errors import Exit, JobError
from job.streams import or_discard, prepare_streams
from k8s.api.errors import MEANINGS, LauncherError, Status
from k8s.commands import flags
from k8s.view.output import note

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from k8s.api.cluster import Cluster

COMMANDS = {
    "submit": "check that the cluster can run the job, and start it",
    "preflight": "check whether the cluster can run the job",
    "status": "show all runs and schedules, or one of them in detail",
    "logs": "show the logs of a run's workers",
    "why": "explain why a run or a schedule failed or waits, and what to do",
    "cancel": "stop a run (its checkpoint is kept), or delete a schedule",
    "suspend": "pause a run or a schedule",
    "resume": "continue a run or a schedule that was suspended",
    "retry": "restart a run that has ended, from its newest checkpoint",
    "schedule": "train on a schedule, given as a cron expression",
    "trigger": "start a run of a schedule now",
    "data": "copy a prepared dataset to a claim",
    "fetch": "copy a run's model and report to this machine",
    "compare": "compare published runs",
    "promote": "make a published run the latest model",
    "prune": "delete old runs with their models, checkpoints and Jobs",
    "completion": "print a shell completion script",
}
WITH_TRAINING_FLAGS = {"submit", "preflight", "retry", "schedule"}
STATUSES = (
    "exit statuses: 0; "
    + "; ".join(f"{int(status)} {meaning}" for status, meaning in MEANINGS.items())
    + "; 64 usage; 130 Ctrl-C; with --wait, the worker's exit code"
)


class CommandParser(Parser):
    """The parser of one command, whose help begins with examples."""

    examples: Sequence[str] = ()

    def format_help(self) -> str:
        """The help."""
        lines = "".join(f"  {example}\n" for example in self.examples)
        return (f"examples:\n{lines}\n" if lines else "") + super().format_help()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; returns the exit status."""
    # Lists from an API server are hundreds of thousands of dicts without cycles. Collecting garbage as often as usual
    # took half of the time of `status`, and after every 10,000 a sixth of that of `preflight` beside 20,000 pods.
    gc.set_threshold(100_000)
    prepare_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    split = words.index("--") if "--" in words else len(words)
    try:
        arguments, unknown = parser(words[:1]).parse_known_args(words[:split])
        if unknown:
            raise usage_error(
                f"unrecognized arguments: {' '.join(unknown)}", f"see `mnist-job {arguments.command} --help`"
            )
        arguments.training, arguments.parser = tuple(words[split + 1 :]), parser
        if arguments.training and arguments.command not in WITH_TRAINING_FLAGS:
            raise usage_error(f"{arguments.command} has no training flags", "leave out what follows --")
        if arguments.request_timeout:
            arguments.request_timeout = parse_duration("--request-timeout", arguments.request_timeout)
        status: int = module(arguments.command).run(arguments, functools.cache(lambda: cluster_of(arguments)))
        sys.stdout.flush()
    except JobError as error:
        return fail(error, error.code)
    except LauncherError as error:
        return fail(error, error.status)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:  # the reader closed the pipe, for example `| head`
        return 0
    except OSError as error:  # such as that of standard output on a full disk
        return fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", Status.FAILED)
    finally:
        with or_discard(sys.stdout):
            sys.stdout.flush()
    return status


def parser(names: Collection[str] = COMMANDS.keys()) -> Parser:
    """The parser of all commands.

    Args:
        names: the commands whose modules are imported for their flags.
    """
    top = Parser(prog="mnist-job", description="Runs the training job on Kubernetes.", epilog=STATUSES)
    top.add_argument("--version", action="version", version=f"mnist-job {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True, dest="command", parser_class=CommandParser)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=STATUSES)
        if name in names:
            command.examples = module(name).EXAMPLES
            module(name).add_flags(command)
            flags.add_connection(command, getattr(module(name), "OUTPUTS", flags.OUTPUTS))
            command.usage = command.usage or usage_of(command, name)
    return top


def usage_of(command: Parser, name: str) -> str:
    """The first line of a command's help: its arguments, and not each of its flags."""
    positional = [each for each in command._actions if not each.option_strings]  # noqa: SLF001 - argparse has no public way
    words = [str(each.metavar or "|".join(each.choices or ())) for each in positional]
    words = [f"[{word}]" if each.nargs == "?" else word for word, each in zip(words, positional, strict=True)]
    training = ["[-- TRAINING FLAGS]"] if name in WITH_TRAINING_FLAGS else []
    return " ".join(["%(prog)s", *words, "[FLAGS]", *training])


def module(name: str) -> Any:
    """The module of a command: its EXAMPLES, its OUTPUTS if they differ from the default, add_flags() and run()."""
    return import_module(f"k8s.commands.{name}")


def cluster_of(arguments: Any) -> Cluster:
    """The cluster that the arguments name."""
    from k8s.api.kubeconfig import connect  # noqa: PLC0415 - 0.3 s, for which `--help` should not wait

    return connect(
        arguments.context,
        arguments.namespace,
        note,
        kubeconfig=arguments.kubeconfig,
        patience_s=arguments.request_timeout,
    )


def fail(error: Exception | str, status: int) -> int:
    """Print what is wrong; returns the exit status."""
    note(f"error: {error}")
    return status


if __name__ == "__main__":
    sys.exit(main())
