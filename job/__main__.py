"""The command line: parses it and delegates."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from job import config
from job.errors import MEANINGS, Exit, JobError
from job.system import process, termination

if TYPE_CHECKING:
    import argparse

EXIT_CODES = "exit codes: " + "; ".join(f"{int(code)} {meaning}" for code, meaning in MEANINGS.items())


def main() -> int:
    """Run the command that the arguments name; returns the exit code."""
    process.end_with_parent()
    try:
        arguments = parser().parse_args()
        code: int = arguments.run(arguments)
    except JobError as error:
        print(f"error: {error}", file=sys.stderr)
        termination.write(error.code, error.reason, error.message, hint=error.hint)
        return error.code
    except KeyboardInterrupt:
        print(f"error: {MEANINGS[Exit.INTERRUPTED]}", file=sys.stderr)
        return Exit.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - whatever it is, it becomes an exit code and a sentence
        import traceback  # noqa: PLC0415 - which no supervisor needs

        traceback.print_exc()
        message, hint = f"{type(error).__name__}: {error}", "please report it with the lines above"
        print(f"error: {message}; {hint}", file=sys.stderr)
        termination.write(Exit.BUG, "bug", message, hint=hint)
        return Exit.BUG
    return code


def parser() -> config.Parser:
    """The parser of all commands; each leaves its function in `run`."""
    top = config.Parser(prog="python -m job", description=__doc__, epilog=EXIT_CODES)
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    train = commands.add_parser("train", help="train a model and publish it", epilog=EXIT_CODES)
    config.add_flags(train)
    train.set_defaults(run=run_train)

    data = commands.add_parser("data", help="get a dataset and prepare it")
    config.add_flags(data, "data", "dataset")
    data.add_argument("--from-idx", type=Path, metavar="FOLDER", help="prepare from four raw IDX files, plain or .gz")
    data.set_defaults(run=run_data)

    predict = commands.add_parser("predict", help="classify pictures with a published model")
    predict.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="models/<run>, or latest")
    predict.add_argument("--json", action="store_true", help="print JSON")
    predict.add_argument("pictures", type=Path, nargs="+", metavar="PICTURE", help="an image file of any size")
    predict.set_defaults(run=run_predict)

    compare = commands.add_parser("compare", help="compare the published runs of an output folder")
    compare.add_argument("output", type=Path, metavar="OUTPUT", help="the folder given to train as --output")
    compare.add_argument("--json", action="store_true", help="print JSON")
    compare.add_argument("--html", type=Path, metavar="FILE", help="write one self-contained page as well")
    compare.set_defaults(run=run_compare)

    promote = commands.add_parser("promote", help="move `latest` to a published run by hand, forwards or back")
    promote.add_argument("name", metavar="RUN", help="a published run; neither its verdict nor its age matters")
    promote.add_argument("--json", action="store_true", help="print JSON")
    config.add_flags(promote, "output")
    promote.set_defaults(run=run_promote)

    prune = commands.add_parser("prune", help="remove old runs with their models, after saying which")
    prune.add_argument("names", nargs="*", metavar="RUN", help="prune nothing but these (default: all that may go)")
    config.add_flags(prune, "output")
    config.add_prune_flags(prune)
    prune.add_argument("--json", action="store_true", help="print JSON")
    prune.set_defaults(run=run_prune)
    return top


def run_train(arguments: argparse.Namespace) -> int:
    """Train: as one worker where there is a cluster around this process, else all workers here."""
    # From here on, for a container's first process is not even ended by a signal that it does not handle. What is
    # imported next takes a while, and then puts handlers of its own in its place.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(Exit.TRY_AGAIN))
    from job import cluster  # noqa: PLC0415

    given = {name: value for name, value in vars(arguments).items() if name != "run"}
    settings = config.Config(**given)
    member = cluster.identify(os.environ)
    if member is None:
        from job.local import workers as local  # noqa: PLC0415 - with its progress bar, which no worker has

        return local.run(settings)
    for name in ("workers", "name"):
        if name in given:
            message = f"{config.flag(name)} cannot be given to a worker in a cluster, whose environment says it"
            raise config.usage(message, "leave it out")
    from job.supervisor import supervisor as supervise  # noqa: PLC0415

    return supervise.supervise(settings, member)


def run_data(arguments: argparse.Namespace) -> int:
    """Prepare a dataset."""
    from job.dataset import prepare  # noqa: PLC0415

    given = {name: value for name, value in vars(arguments).items() if name in {"data", "dataset"}}
    prepare.prepare(config.Config(**given), arguments.from_idx, print)
    return 0


def run_predict(arguments: argparse.Namespace) -> int:
    """Classify pictures."""
    from job.predict import predict  # noqa: PLC0415

    predict.run(arguments.model, arguments.pictures, as_json=arguments.json)
    return 0


def run_compare(arguments: argparse.Namespace) -> int:
    """Compare published runs."""
    from job.report import compare  # noqa: PLC0415

    compare.run(arguments.output, as_json=arguments.json, html=arguments.html)
    return 0


def run_promote(arguments: argparse.Namespace) -> int:
    """Move `latest`."""
    from job.output.latest import move_latest  # noqa: PLC0415

    before = move_latest(output_of(arguments), arguments.name)
    if arguments.json:
        print(json.dumps({"latest": arguments.name, "before": before}))
    else:
        print(f"latest is {arguments.name}; it was {before or 'not there'}")
    return 0


def run_prune(arguments: argparse.Namespace) -> int:
    """Remove old runs."""
    from job.output import prune  # noqa: PLC0415

    prune.run(output_of(arguments), arguments)
    return 0


def output_of(arguments: argparse.Namespace) -> Path:
    """The output folder that the flags name, or the default."""
    return config.Config(**{name: value for name, value in vars(arguments).items() if name == "output"}).output


if __name__ == "__main__":
    sys.exit(main())
