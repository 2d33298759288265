"""completion: print a shell completion script."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.api.cluster import Cluster

EXAMPLES = (
    'eval "$(mnist-job completion bash)"    # in ~/.bashrc',
    'eval "$(mnist-job completion zsh)"    # in ~/.zshrc',
)
SHELLS = ("bash", "zsh")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `completion`."""
    parser.add_argument("shell", choices=SHELLS, help="the shell to complete commands in")


def run(arguments: argparse.Namespace, _: Callable[[], Cluster]) -> int:
    """Print a shell's completion script; returns the exit status. No cluster is contacted."""
    import shtab  # noqa: PLC0415 - not needed for a command's --help

    print(shtab.complete(arguments.parser(), shell=arguments.shell))
    return 0
