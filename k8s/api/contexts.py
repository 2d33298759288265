"""Merge and check the kubeconfig's files like kubectl (client-go's tools/clientcmd), and choose a context.

No message shows a value that may be secret.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from k8s.api.errors import LauncherError, unreached

if TYPE_CHECKING:
    from collections.abc import Callable

    from k8s.api.objects import Object

DEFAULT = Path("~/.kube/config")
WHERE = "check --kubeconfig, $KUBECONFIG or ~/.kube/config"
CHOOSE = "choose one with --context NAME or `kubectl config use-context NAME`"
SINGULAR = {"contexts": "context", "clusters": "cluster", "users": "user"}
# The fields that are used, with their types and these types in words.
TEXT, SWITCH, LIST, MAPPING = (str, "text"), (bool, "true or false"), (list, "a list"), (dict, "a mapping")
FIELDS: dict[str, dict[str, tuple[type, str]]] = {
    "contexts": dict.fromkeys(("cluster", "user", "namespace"), TEXT),
    "clusters": dict.fromkeys(
        ("server", "certificate-authority", "certificate-authority-data", "tls-server-name", "proxy-url"), TEXT
    )
    | {"insecure-skip-tls-verify": SWITCH},
    "users": dict.fromkeys(("token", "tokenFile", "username", "password", "as", "as-uid"), TEXT)
    | dict.fromkeys(("client-certificate", "client-certificate-data", "client-key", "client-key-data"), TEXT)
    | {"as-groups": LIST, "as-user-extra": MAPPING, "exec": MAPPING, "auth-provider": MAPPING},
}
PATHS = ("certificate-authority", "client-certificate", "client-key", "tokenFile")  # relative to the file's folder


@dataclass(frozen=True)
class Context:
    """A context.

    Its `cluster` and `user` are as in the kubeconfig, but with absolute paths, and without empty values. save() writes
    what was changed in the user's `auth-provider` into the file that it comes from.
    """

    name: str
    namespace: str
    cluster: Object
    user: Object
    user_name: str
    save: Callable[[], None]


@dataclass(frozen=True)
class Entry:
    """A context, cluster or user of a file."""

    path: Path
    content: Object  # of the file
    value: Object


def files(kubeconfig: str | None) -> list[Path]:
    """The kubeconfig's files: the given one, or those of $KUBECONFIG or the default one that exist.

    Raises:
        LauncherError: 3, none of $KUBECONFIG's exists.
    """
    if kubeconfig:
        return [Path(kubeconfig).expanduser()]
    listed = os.environ.get("KUBECONFIG", "")
    paths = [Path(path) for path in listed.split(os.pathsep) if path] if listed else [DEFAULT]
    existing = [path for path in dict.fromkeys(path.expanduser() for path in paths) if path.exists()]
    if listed and not existing:
        raise unreached(f"no file of $KUBECONFIG ({listed}) exists", "correct the variable, or run `unset KUBECONFIG`")
    return existing


def read_context(name: str | None, paths: list[Path]) -> Context:
    """The named context, or the current one.

    If several files have an entry of the same name, or a current context, the first file wins.

    Raises:
        LauncherError: 3, a file is no kubeconfig, or there is no such context, cluster or user.
    """
    contents = [(path, read_file(path)) for path in paths]
    entries = {plural: entries_of(plural, contents) for plural in SINGULAR}
    current = next((content["current-context"] for _, content in contents if content.get("current-context")), None)
    names = ", ".join(entries["contexts"]) or "none"
    chosen = name or current
    if not entries["contexts"]:
        raise unreached(f"the kubeconfig {', '.join(map(str, paths))} has no contexts", WHERE)
    if not chosen:
        raise unreached(f"the kubeconfig sets no current context; it has {names}", CHOOSE)
    if chosen not in entries["contexts"]:
        if name:
            raise unreached(f"the kubeconfig has no context {name!r}", f"it has {names}")
        raise unreached(f"the kubeconfig's current context {current!r} does not exist; it has {names}", CHOOSE)
    context = checked("contexts", chosen, entries["contexts"][chosen])
    if "cluster" not in context:
        raise unreached(f"the context {chosen!r} of the kubeconfig names no cluster", WHERE)
    cluster = named("clusters", context["cluster"], entries, chosen)
    user_name = context.get("user", "")
    user = named("users", user_name, entries, chosen) if user_name else {}

    def save() -> None:
        source = entries["users"][user_name]
        source.path.write_text(yaml.safe_dump(source.content, default_flow_style=False), encoding="utf-8")

    return Context(chosen, context.get("namespace", ""), cluster, user, user_name, save)


def read_file(path: Path) -> Object:
    """A file's content.

    Raises:
        LauncherError: 3, it cannot be read, or is no kubeconfig.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise unusable(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # the error's own message may quote the file
        mark = getattr(error, "problem_mark", None)
        raise unusable(f"{path} is not YAML" + (f" (line {mark.line + 1})" if mark else "")) from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not isinstance(content.get("current-context") or "", str):
        raise unusable(f"{path} is not a kubeconfig")
    return content


def entries_of(plural: str, contents: list[tuple[Path, Object]]) -> dict[str, Entry]:
    """The contexts, clusters or users of all files by name.

    Raises:
        LauncherError: 3, they are no list, or a name is missing or repeated in one file.
    """
    found: dict[str, Entry] = {}
    for path, content in contents:
        listed = content.get(plural) or []
        if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
            raise unusable(f"`{plural}` of {path} is not a list of mappings")
        names = [each.get("name") for each in listed]
        for name, each in zip(names, listed, strict=True):
            if not isinstance(name, str):
                raise unusable(f"a {SINGULAR[plural]} of {path} has no name that is text")
            if names.count(name) > 1:
                raise unusable(f"{path} has two {plural} named {name!r}")
            value = each.get(SINGULAR[plural])
            found.setdefault(name, Entry(path, content, {} if value is None else value))
    return found


def named(plural: str, name: str, entries: dict[str, dict[str, Entry]], context: str) -> Object:
    """The cluster or the user that a context names.

    Raises:
        LauncherError: 3, there is none.
    """
    if name not in entries[plural]:
        names = ", ".join(entries[plural]) or "none"
        message = f"the context {context!r} names the {SINGULAR[plural]} {name!r}, which the kubeconfig does not have"
        raise unreached(message, f"its {plural}: {names}")
    return checked(plural, name, entries[plural][name])


def checked(plural: str, name: str, entry: Entry) -> Object:
    """A context, cluster or user without empty values and with absolute paths.

    Raises:
        LauncherError: 3, a field has the wrong type.
    """
    what = f"the {SINGULAR[plural]} {name!r} of {entry.path}"
    if not isinstance(entry.value, dict):
        raise unusable(f"{what} is not a mapping")
    value: Object = {key: each for key, each in entry.value.items() if each not in (None, "", [], {})}
    for key, (kind, words) in FIELDS[plural].items():
        if not isinstance(value.get(key, kind()), kind):
            raise unusable(f"`{key}` of {what} must be {words}{' (write it in quotes)' if kind is str else ''}")
    groups = [value.get("as-groups", []), *value.get("as-user-extra", {}).values()]
    if not all(isinstance(each, list) and all(isinstance(one, str) for one in each) for each in groups):
        raise unusable(f"`as-groups` and the values of `as-user-extra` of {what} must be lists of text")
    folder = entry.path.absolute().parent
    value |= {key: str(folder / value[key]) for key in PATHS if key in value}
    command: Any = value.get("exec", {}).get("command", "")
    if isinstance(command, str) and os.sep in command:
        value["exec"] = {**value["exec"], "command": str(folder / command)}
    return value


def unusable(problem: str) -> LauncherError:
    """The error of a kubeconfig with wrong content."""
    return unreached(f"the kubeconfig cannot be used: {problem}", WHERE)
