"""Kubeconfigs to write into a file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from k8s.api.objects import Object


def kubeconfig(server: str) -> Object:
    """A kubeconfig of two contexts."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        "contexts": [
            {"name": "one", "context": {"cluster": "c", "user": "u"}},
            {"name": "two", "context": {"cluster": "c", "user": "u", "namespace": "there"}},
            {"name": "broken", "context": {"cluster": "x", "user": "u"}},
        ],
    }


VERSION = "client.authentication.k8s.io/v1"


def credential(status: Object) -> str:
    """What a credential plugin prints."""
    return json.dumps({"apiVersion": VERSION, "kind": "ExecCredential", "status": status})


def by_plugin(server: str, *command: str) -> Object:
    """A kubeconfig whose user's credentials come from a command."""
    content = kubeconfig(server)
    plugin = {"apiVersion": VERSION, "command": command[0], "args": list(command[1:]), "interactiveMode": "Never"}
    content["users"][0]["user"] = {"exec": plugin}
    return content
