"""How commands print: notes on standard error, results as text, JSON, YAML or names."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object


def note(line: str) -> None:
    """Print a line on standard error, at once."""
    print(line, file=sys.stderr, flush=True)


def print_result(output: str, fields: Mapping[str, Any], *lines: str) -> None:
    """Print a command's result.

    Args:
        output: the value of --output: text prints the lines, name the field `name`, json and yaml all fields.
        fields: the result for programs.
        lines: the result for people.
    """
    if output == "text":
        print("\n".join(lines))
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

    return str(yaml.safe_dump_all(documents, sort_keys=False)).rstrip()


def where_to_look(cluster: Cluster, name: str) -> str:
    """The commands that show a run that was started, as a line."""
    return f"  mnist-job status {name} {cluster.flags}    mnist-job logs {name} {cluster.flags}"
