"""completion: print a shell completion script."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import shtab

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.api.cluster import Cluster

EXAMPLES = (
    'eval "$(mnist-job completion bash)"    # in ~/.bashrc',
    'eval "$(mnist-job completion zsh)"    # in ~/.zshrc',
)
SHELLS = ("bash", "zsh")
# The names of runs and schedules come from the cluster, if it answers at once.
NAMES = "$(mnist-job status -o name --request-timeout 2s 2>/dev/null)"
RUN_SELECTOR = {
    "bash": f'_mnist_job_runs() {{ compgen -W "{NAMES}" -- "$1"; }}',
    "zsh": f'_mnist_job_runs() {{ local -a runs; runs=(${{(f)"{NAMES}"}}); compadd -a runs }}',
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `completion`."""
    parser.add_argument("shell", choices=SHELLS, help="the shell to print the script for")


def run(arguments: argparse.Namespace, _: Callable[[], Cluster]) -> int:
    """Print a shell's completion script; returns the exit status. No cluster is contacted."""
    top = arguments.parser()
    complete_names(top)
    print(shtab.complete(top, shell=arguments.shell, preamble=RUN_SELECTOR[arguments.shell]))
    return 0


def complete_names(parser: Any) -> None:
    """Let shtab complete the argument NAME of every command with the names of runs, and FILE with those of files."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no public way
        if action.metavar == "NAME" and not action.option_strings:
            action.complete = dict.fromkeys(SHELLS, "_mnist_job_runs")
        if action.metavar == "FILE":
            action.complete = shtab.FILE
        for command in action.choices.values() if isinstance(action.choices, dict) else ():
            complete_names(command)
