"""The launcher's command line: parses it and delegates."""

from __future__ import annotations

import functools
import gc
import sys
from typing import TYPE_CHECKING

from job.config import Parser, usage
from job.errors import Exit, JobError
from k8s.api.errors import MEANINGS, LauncherError
from k8s.api.kubeconfig import connect
from k8s.commands import (
    cancel,
    compare,
    completion,
    fetch,
    logs,
    preflight,
    promote,
    prune,
    resume,
    retry,
    schedule,
    status,
    submit,
    suspend,
    trigger,
    why,
)
from k8s.view.output import note

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "submit": submit,
    "preflight": preflight,
    "status": status,
    "logs": logs,
    "why": why,
    "cancel": cancel,
    "suspend": suspend,
    "resume": resume,
    "retry": retry,
    "schedule": schedule,
    "trigger": trigger,
    "fetch": fetch,
    "compare": compare,
    "promote": promote,
    "prune": prune,
    "completion": completion,
}
STATUSES = (
    "exit statuses: 0; "
    + "; ".join(f"{int(status)} {meaning}" for status, meaning in MEANINGS.items())
    + "; 64 usage; 130 Ctrl-C; with --wait, a worker's code as it is"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; returns the exit status."""
    # What an API server lists is hundreds of thousands of dicts without a cycle: to look through them as often as usual
    # took half of the time of `status`.
    gc.set_threshold(10_000)
    words = list(sys.argv[1:] if argv is None else argv)
    training = words.index("--") if "--" in words else len(words)
    try:
        arguments = parser().parse_args(words[:training])
        arguments.training = tuple(words[training + 1 :])
        if arguments.training and not arguments.takes_training:
            raise usage(f"{arguments.command} takes no training flags", "leave out what follows --")
        connected = functools.cache(functools.partial(connect, arguments.context, arguments.namespace, note))
        status: int = COMMANDS[arguments.command].run(arguments, connected)
    except JobError as error:
        return fail(error, error.code)
    except LauncherError as error:
        return fail(error, error.status)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:  # nobody reads any more, as after `| head`
        sys.stderr.close()
        return 0
    return status


def parser() -> Parser:
    """The parser of all commands."""
    top = Parser(prog="mnist-job", description="Runs the training job on Kubernetes.", epilog=STATUSES)
    commands = top.add_subparsers(metavar="COMMAND", required=True, dest="command")
    for name, module in COMMANDS.items():
        text = str(module.__doc__).split(":", 1)[1].strip().splitlines()[0].rstrip(".")
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", epilog=STATUSES)
        command.set_defaults(takes_training=name in ("submit", "preflight", "retry", "schedule"))
        common = command.add_argument_group("where, and how it is told")
        common.add_argument("-n", "--namespace", help="default: the context's")
        common.add_argument("--context", help="a context of the kubeconfig (default: the present one)")
        common.add_argument("-o", "--output", choices=("text", "json"), default="text", help="default: text")
        module.add_flags(command)
    return top


def fail(error: Exception, status: int) -> int:
    """Say why; returns the exit status."""
    note(f"error: {error}")
    return status


if __name__ == "__main__":
    sys.exit(main())
