"""completion: print what makes a shell complete this command's words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.api.cluster import Cluster

SHELLS = ("bash", "zsh")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what `completion` takes."""
    parser.add_argument("shell", choices=SHELLS, help="the shell; its start-up file takes: eval `... SHELL`")


def run(arguments: argparse.Namespace, _: Callable[[], Cluster]) -> int:
    """Print a shell's completion; returns the exit status. The cluster is not asked."""
    import shtab  # noqa: PLC0415 - not needed for a command's --help

    from k8s.__main__ import parser  # noqa: PLC0415 - which lists this command

    print(shtab.complete(parser(), shell=arguments.shell))
    return 0
