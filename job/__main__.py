"""The command line: a table of commands."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from job import __version__, config
from job.error_table import job_error
from job.errors import MEANINGS, Exit, JobError
from job.streams import prepare_streams
from job.system import process, termination

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

EXIT_CODES = "exit codes: " + "; ".join(f"{int(code)} {meaning}" for code, meaning in MEANINGS.items())

USE_TENSORFLOW = {"predict", "data"}  # each in a copy of the process: see survive()
REPEATED_S = 2.0  # from the first signal of a Ctrl-C to its second one, on a busy machine


class Command(NamedTuple):
    """A command: its line in the help, the settings that are its flags, its other arguments, and what runs it.

    The arguments are those of ArgumentParser.add_argument(), by flag. If run() gives an int, it is the exit code.
    """

    help: str
    settings: tuple[str, ...]
    arguments: dict[str, dict[str, Any]]
    run: Callable[[argparse.Namespace], Any]


def main() -> int:
    """Run the command that the arguments name; returns the exit code."""
    process.end_with_parent()
    prepare_streams()
    try:
        arguments = parser().parse_args()
        run = COMMANDS[arguments.command].run
        result = survive(run, arguments) if arguments.command in USE_TENSORFLOW else run(arguments)
        return exit_code(result) if isinstance(result, int) else 0
    except KeyboardInterrupt:
        print(f"error: {MEANINGS[Exit.INTERRUPTED]}", file=sys.stderr)
        return Exit.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - every exception becomes an exit code and a sentence
        failure = error if isinstance(error, JobError) else job_error(error, "system", "the program")
        if failure is None:
            load("traceback").print_exc()
            message = f"{type(error).__name__}: {error}"
            failure = JobError(Exit.BUG, "bug", message, "please report it with the lines above")
        with suppress(OSError):  # the terminal may be closed
            print(f"error: {failure}", file=sys.stderr, flush=True)
        termination.write(failure.code, failure.reason, failure.message, hint=failure.hint)
        return exit_code(failure.code)


def exit_code(code: int) -> int:
    """The exit code; under an operator, another one takes the place of 75."""
    return int(load("job.cluster").exit_code(code, os.environ))


def parser() -> config.Parser:
    """The parser of all commands; the command's name is in `command`."""
    top = config.Parser(prog="python -m job", description="Train a model and use it.", epilog=EXIT_CODES)
    top.add_argument("--version", action="version", version=f"mnist-job {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True, dest="command")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.help, epilog=EXIT_CODES)
        config.add_flags(sub, *command.settings)
        for flag, options in command.arguments.items():
            sub.add_argument(flag, **options)
    config.add_prune_flags(commands.choices["prune"])
    return top


def load(module: str) -> Any:
    """Import a module that only one command needs: importing all of them would double a supervisor's start."""
    return importlib.import_module(module)


def survive(run: Callable[[argparse.Namespace], Any], arguments: argparse.Namespace) -> Any:
    """Run a command in a copy of this process, so that a fault in TensorFlow's native code ends only the copy.

    Returns:
        In the copy, what the command returns. In this process, the copy's exit code.

    Raises:
        JobError: 70, a signal ended the copy: this CPU cannot run TensorFlow, or native code failed.
    """
    os.environ[process.PARENT] = str(os.getpid())
    child = os.fork()
    if child == 0:
        process.end_with_parent()
        signal.signal(signal.SIGINT, interrupter())
        return run(arguments)

    def forward(number: int, _: object) -> None:
        with suppress(ProcessLookupError):  # the copy has just ended
            os.kill(child, number)

    signal.signal(signal.SIGINT, forward)
    signal.signal(signal.SIGTERM, forward)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code in {-signal.SIGILL, -signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGKILL}:
        ended = f"the command was ended by {signal.Signals(-code).name}"
        hint = "give it more memory" if code == -signal.SIGKILL else "run it again, and report it if this happens again"
        raise load("job.system.cpu").unfit(-code) or JobError(Exit.BUG, "killed", ended, hint)
    return process.exit_code(code)


def interrupter() -> Callable[..., None]:
    """A handler of SIGINT: a terminal sends it to a command and to its copy, which then gets it a second time.

    It interrupts again after REPEATED_S: Python drops an exception that is raised while it frees an object.
    """
    interrupted_at = float("-inf")

    def interrupt(*_: object) -> None:
        nonlocal interrupted_at
        before, interrupted_at = interrupted_at, time.monotonic()
        if interrupted_at - before > REPEATED_S:
            raise KeyboardInterrupt

    return interrupt


def settings(arguments: argparse.Namespace) -> config.Config:
    """The settings that the flags give."""
    given = vars(arguments)
    return config.Config(**{field: given[field] for field in config.Config.__dataclass_fields__ if field in given})


def show(sentence: str) -> None:
    """Print a sentence at once; if that fails, it is not an error of the dataset."""
    with process.standard_output():
        print(sentence)


def train(arguments: argparse.Namespace) -> int:
    """Train: as one worker if this process belongs to a cluster, else with all workers on this machine."""
    # The kernel drops a signal that a container's first process does not handle. The modules below take a while to
    # import, and then install handlers of their own.
    stopped = exit_code(Exit.TRY_AGAIN)  # not in the handler, which may interrupt an import
    signal.signal(signal.SIGTERM, lambda *_: os._exit(stopped))
    identity = load("job.cluster")
    cluster = identity.identify(os.environ)
    chosen = settings(arguments)
    load("job.model_file").use_model(chosen.model)
    if cluster is None:
        config.check_min_workers(chosen.min_workers, chosen.workers)
        return int(load("job.local.workers").run(chosen))
    for name in ("workers", "name"):
        if name in arguments:
            marker = identity.membership(os.environ)
            message = f"{config.flag(name)} cannot be used in a cluster, and {marker} makes this process a worker"
            raise config.usage_error(message, f"leave it out; {identity.how_to_leave(marker)}")
    config.check_min_workers(chosen.min_workers, cluster.workers)
    return int(load("job.supervisor.supervisor").supervise(chosen, cluster))


def data(arguments: argparse.Namespace) -> None:
    """Prepare a dataset, or check a prepared one."""
    if not arguments.check:
        load("job.dataset.prepare").prepare_dataset(settings(arguments), arguments.from_idx, show)
    elif arguments.from_idx:
        raise config.usage_error("--check cannot be combined with --from-idx", "leave out one of the two")
    else:
        load("job.report.data_check").check(settings(arguments), show)


def promote(arguments: argparse.Namespace) -> None:
    """Move `latest`."""
    before = load("job.output.latest").move_latest(settings(arguments).output, arguments.name)
    with process.standard_output():
        if arguments.json:
            print(json.dumps({"latest": arguments.name, "before": before}))
        else:
            print(f"latest is {arguments.name}; " + (f"it was {before}" if before else "there was none before"))


JSON = {"--json": {"action": "store_true", "help": "print JSON"}}
COMMANDS = {
    "train": Command("train a model and publish it", config.FIELDS, {}, train),
    "data": Command(
        "get a dataset and prepare it",
        ("data", "dataset", "output"),
        {
            "--from-idx": {
                "type": Path,
                "metavar": "FOLDER",
                "help": "prepare from four raw IDX files there, compressed or not",
            },
            "--check": {
                "action": "store_true",
                "help": "describe a prepared dataset, and how it differs from the data of `latest`",
            },
        },
        data,
    ),
    "predict": Command(
        "classify pictures with a published model",
        (),
        {
            "--model": {
                "type": Path,
                "required": True,
                "metavar": "FOLDER",
                "help": "folder of the model, such as output/models/<run> or output/latest",
            },
            "pictures": {"type": Path, "nargs": "+", "metavar": "PICTURE", "help": "an image file of any size"},
            **JSON,
        },
        lambda given: load("job.predict.predict").run(given.model, given.pictures, as_json=given.json),
    ),
    "compare": Command(
        "compare the published runs of an output folder",
        (),
        {
            "output": {"type": Path, "metavar": "OUTPUT", "help": "the --output folder of `train`"},
            "--html": {"type": Path, "metavar": "FILE", "help": "also write a self-contained HTML page to FILE"},
            **JSON,
        },
        lambda given: load("job.report.compare").run(given.output, as_json=given.json, html=given.html),
    ),
    "promote": Command(
        "move `latest` to any published run",
        ("output",),
        {"name": {"metavar": "RUN", "help": "a published run of any verdict and age"}, **JSON},
        promote,
    ),
    "prune": Command(
        "list and remove old runs and their models",
        ("output",),
        {
            "names": {
                "nargs": "*",
                "metavar": "RUN",
                "help": "prune only these runs (default: all that may be pruned)",
            },
            **JSON,
        },
        lambda given: load("job.output.prune").run(settings(given).output, given),
    ),
}


if __name__ == "__main__":
    sys.exit(main())
