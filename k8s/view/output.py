"""How commands print: notes and a progress bar on standard error, results as text, JSON, YAML or names."""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object


# What sigs.k8s.io/yaml, which kubectl uses, reads as a floating-point number.
FLOAT_OF_GO = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"


# All control characters but tabs and line ends.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """A text with its control characters as Python writes them: an escape as a backslash, an x and its number.

    A terminal obeys these characters, and the text of a pod, an event or a volume may contain any.
    """
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def note(line: str) -> None:
    """Print a line on standard error, at once."""
    print(printable(line), file=sys.stderr, flush=True)


def print_result(output: str, fields: Mapping[str, Any], *lines: str) -> None:
    """Print a command's result.

    Args:
        output: the value of --output: text prints the lines, name the field `name`, json and yaml all fields.
        fields: the result for programs.
        lines: the result for people.
    """
    if output == "text":
        print(printable("\n".join(lines)))
    elif output == "name":
        print(fields["name"])
    else:
        print(json.dumps(fields) if output == "json" else as_yaml([fields]))


def print_objects(output: str, objects: Sequence[Object]) -> None:
    """Print Kubernetes objects: as a JSON List, by name as `kubectl -o name` does, or else as YAML documents."""
    if output == "json":
        print(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    elif output == "name":
        print("\n".join(f"{each['kind'].lower()}/{each['metadata']['name']}" for each in objects))
    else:
        print(as_yaml(objects))


def as_yaml(documents: Sequence[Mapping[str, Any]]) -> str:
    """Documents as YAML."""
    import yaml  # noqa: PLC0415 - not needed for a command's --help

    class Dumper(yaml.SafeDumper):
        """Also quotes texts that kubectl, but not PyYAML, reads as a number or a truth value."""

    Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(FLOAT_OF_GO), list("-+.0123456789"))
    Dumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?0[0-9a-zA-Z]\w*"), list("-+0"))
    Dumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"[yYnN]$"), list("yYnN"))
    return str(yaml.dump_all(documents, Dumper=Dumper, sort_keys=False)).rstrip()


def where_to_look(cluster: Cluster, name: str) -> str:
    """The commands that show a run that was started, as a line."""
    return f"  mnist-job status {name} {cluster.flags}    mnist-job logs {name} {cluster.flags}"


def use_colour() -> bool:
    """Whether standard output is a terminal, and the user does not object to colours (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar if standard error is a terminal.

    Args:
        total: the bytes to copy.

    Yields:
        A function to call with the number of bytes just copied; below 0 for bytes that have to be copied again.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415 - not needed for a command's --help
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn  # noqa: PLC0415 - the same

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total)
        yield lambda count: progress.update(task, advance=count)
