"""The one object that talks to the API server: objects as plain JSON, requests retried, refusals as sentences."""

from __future__ import annotations

import copy
import secrets
import shlex
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from k8s.api.errors import ApiError
from k8s.api.exec import exec_in_container, open_exec
from k8s.api.objects import KINDS, matches
from k8s.api.pages import read_pages
from k8s.api.requests import TEMPORARY, TIMEOUT_S, Api, request_of
from k8s.api.watch import watch_objects

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from datetime import datetime

    from k8s.api.objects import Object

SILENCE_S = 60.0  # without a line of a log that is followed, before it is requested again
WATCH_S = 60  # length of one watch request
LATE_S = 15.0  # how much longer its end may take: a dead connection goes unnoticed for both together


class Cluster:
    """One namespace of a cluster.

    Args:
        log_in: gives a kubernetes.client.ApiClient with fresh credentials.
        namespace: where the runs are.
        say: shows one line about what the launcher waits for, such as an API server that does not answer.
        patience_s: how long a request is retried while the API server does not answer; None for the default.
        flags: the launcher's flags that lead to this cluster, for the commands that messages suggest.
    """

    def __init__(
        self,
        log_in: Callable[[], Any],
        namespace: str,
        say: Callable[[str], None] = lambda _: None,
        *,
        patience_s: float | None = None,
        flags: Sequence[str] = (),
    ) -> None:
        self._api, self.namespace, self._flags = Api(log_in, say, patience_s), namespace, flags
        self.say = say
        self._versions: dict[str, str] = {}  # path of each API group's preferred version
        # The objects of keep() by namespace, kind and selector, or why they can no longer be watched.
        self._kept: dict[tuple[str, str, str], list[Object] | Exception] = {}

    @property
    def patience_s(self) -> float:
        """How long a request is retried while the API server does not answer; infinite while a run is followed."""
        return self._api.patience_s

    @patience_s.setter
    def patience_s(self, seconds: float) -> None:
        self._api.patience_s = seconds

    @property
    def flags(self) -> str:
        """The flags that select this namespace of this cluster, for the commands that messages suggest."""
        return shlex.join(["-n", self.namespace, *self._flags])

    def in_namespace(self, namespace: str) -> Cluster:
        """Another namespace of the same cluster, over the same connections."""
        other = copy.copy(self)
        other.namespace = namespace
        return other

    # Objects

    def get(self, kind: str, name: str) -> Object | None:
        """An object; None if it does not exist."""
        try:
            content = self._api.json("GET", self._path(kind, name))
        except ApiError as error:
            if error.code == 404:
                return None
            raise
        if "metadata" not in content:
            raise self._api.not_kubernetes()
        return content

    def select(self, kind: str, selector: str = "", fields: str = "", *, everywhere: bool = False) -> list[Object]:
        """The objects that a label selector and a field selector match; everywhere: in all namespaces."""
        return list(self.each(kind, selector, fields, everywhere=everywhere))

    def each(self, kind: str, selector: str = "", fields: str = "", *, everywhere: bool = False) -> Iterator[Object]:
        """The objects of select(), one by one: only a page of a long list is in memory at any time."""
        kept = self._kept.get(("" if everywhere else self.namespace, kind, selector))
        if isinstance(kept, Exception):
            raise kept
        if kept is not None:
            yield from (one for one in kept if matches(fields, one))
            return
        for items, _ in self._pages(kind, selector, fields, everywhere=everywhere):
            while items:
                yield items.pop(0)

    def create(self, new: Object, *, dry_run: bool = False) -> Object:
        """Create an object; in a dry run the API server only says what it would create."""
        kind, lost = new["kind"], threading.Event()
        # Names the creator in the object: if the response is lost, the request recognises its own object.
        query = {"dryRun": "All"} if dry_run else {"fieldManager": field_manager()}
        try:
            return self._api.json("POST", self._path(kind), query, new, lost=lost)
        except ApiError as error:
            if error.reason != "AlreadyExists" or not lost.is_set() or dry_run:
                raise
            existing = self.get(kind, new["metadata"]["name"])
            managers = (existing or {}).get("metadata", {}).get("managedFields", [])
            if existing is None or query["fieldManager"] not in [manager.get("manager") for manager in managers]:
                raise
            return existing

    def patch(self, kind: str, name: str, change: Object) -> Object:
        """Change an object by a JSON merge patch (RFC 7386)."""
        return self._api.json("PATCH", self._path(kind, name), {}, change, "application/merge-patch+json")

    def replace(self, new: Object, *, dry_run: bool = False) -> Object:
        """Replace the object of the same name, if that still has the same resourceVersion."""
        query = {"dryRun": "All"} if dry_run else {}
        return self._api.json("PUT", self._path(new["kind"], new["metadata"]["name"]), query, new)

    def delete(self, kind: str, name: str, *, grace_s: int | None = None, uid: str = "", orphan: bool = False) -> None:
        """Delete an object, and in the background what it owns. An object that is gone already is no error.

        Args:
            kind: its kind.
            name: its name.
            grace_s: seconds that a pod has to stop; None for the pod's own grace period.
            uid: its UID; another object of the same name is kept. Empty for any.
            orphan: whether to keep what it owns, without an owner.
        """
        options: Object = {"propagationPolicy": "Orphan" if orphan else "Background"}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            self._api.json("DELETE", self._path(kind, name), {}, options)
        except ApiError as error:
            if error.code != 404 and not (uid and error.code == 409):
                raise

    def watch(
        self,
        kind: str,
        selector: str = "",
        fields: str = "",
        stop: threading.Event | None = None,
        wanted: Callable[[Object], bool] = lambda _: True,
        *,
        everywhere: bool = False,
    ) -> Iterator[dict[str, Object]]:
        """The selected objects by UID: first as they are, then again after each change, until stop is set.

        wanted says which of them to keep in memory, where selectors cannot; everywhere includes all namespaces.
        """

        def open_watch(version: str) -> Generator[str]:
            query = {"labelSelector": selector, "fieldSelector": fields, "watch": "1", "resourceVersion": version}
            query |= {"timeoutSeconds": str(WATCH_S), "allowWatchBookmarks": "true"}
            return self._api.stream(self._path(kind, everywhere=everywhere), query, WATCH_S + LATE_S)

        def list_objects() -> tuple[list[Object], str]:
            found: list[Object] = []
            versions = []
            for items, version in self._pages(kind, selector, fields, everywhere=everywhere):
                found += filter(wanted, items)
                versions.append(version)
            # The first page's version: the watch then includes changes during the list of the other pages.
            return found, versions[0]

        return watch_objects(list_objects, open_watch, stop or threading.Event(), wanted)

    def keep(
        self,
        kind: str,
        selector: str = "",
        wanted: Callable[[Object], bool] = lambda _: True,
        *,
        everywhere: bool = False,
    ) -> None:
        """Watch these objects from now on, so that select() of them, with any field selector, sends no request.

        Returns once they are listed. If this user may not list or watch them, select() requests them each time.

        Args:
            kind: their kind.
            selector: their label selector.
            wanted: says which of them are kept; the others are treated as if they did not exist.
            everywhere: whether those of all namespaces are kept.
        """
        key, known = ("" if everywhere else self.namespace, kind, selector), threading.Event()

        def watch_in_background() -> None:
            try:
                for objects in self.watch(kind, selector, wanted=wanted, everywhere=everywhere):
                    self._kept[key] = list(objects.values())
                    known.set()
            except ApiError:
                self._kept.pop(key, None)
            except Exception as error:  # noqa: BLE001 - whatever ends the thread, select() raises it
                self._kept[key] = error
            known.set()

        threading.Thread(target=watch_in_background, daemon=True).start()
        known.wait()

    # Pods

    def logs(
        self,
        pod: str,
        container: str,
        *,
        follow: bool = False,
        since_s: int | None = None,
        since_time: str = "",
        tail: int | None = None,
        timestamps: bool = False,
    ) -> Iterator[str]:
        """The lines of a container's log, without their line ends.

        Args:
            pod: the pod's name.
            container: the container's name.
            follow: whether to continue until the container ends. A last line without its line end is then left out:
                the connection may have broken within it.
            since_s: how many of the last seconds to include, by the node's clock; None for all.
            since_time: the first time to include, RFC 3339 in whole seconds; empty for all.
            tail: the number of last lines to include.
            timestamps: whether each line begins with the time at which it was written, RFC 3339 in nanoseconds.

        Raises:
            ApiError: the pod does not exist (404), or its container has not started (400).
            OSError: the connection broke; or, while following, nothing was written for a minute.
        """
        query = {"container": container, "timestamps": str(timestamps).lower(), "follow": str(follow).lower()}
        if since_s is not None:
            query["sinceSeconds"] = str(since_s)
        if since_time:
            query["sinceTime"] = since_time
        if tail is not None:
            query["tailLines"] = str(tail)
        # A dead connection is as silent as a worker that waits for others.
        silence_s = SILENCE_S if follow else TIMEOUT_S[1]
        yield from self._api.stream(f"{self._path('Pod', pod)}/log", query, silence_s, torn=not follow)

    def last_lines(self, pod: str, container: str, count: int) -> list[str]:
        """The last lines of a log, at most count, without a line that the container is in the middle of writing.

        Raises:
            ApiError: the pod does not exist (404), or its container has not started (400).
            OSError: the connection broke.
        """
        query = {"container": container, "follow": "false", "tailLines": str(count)}
        return list(self._api.stream(f"{self._path('Pod', pod)}/log", query, TIMEOUT_S[1]))

    def run_in(
        self,
        pod: str,
        container: str,
        command: Sequence[str],
        write: Callable[[bytes], Any],
        stdin: Iterable[bytes] = (),
    ) -> tuple[int, str]:
        """Run a command in a container, as exec_in_container() does; returns its exit code and standard error.

        Raises:
            ConnectionError: the connection broke or was never made. The command may have ended or not.
            ApiError: the pod is gone, or exec is not allowed.
        """
        query = [("container", container), ("stdout", "true"), ("stderr", "true")]
        query += [("stdin", "true")] if stdin else []
        query += [("command", word) for word in command]

        action = f"run a command in pod {pod}"

        def open_it(client: Any) -> Any:
            url, headers = request_of(client, "GET", f"{self._path('Pod', pod)}/exec", {})
            return open_exec(client, f"{url}?{urlencode(query)}", headers, action)

        try:
            socket = self._api.logged_in(open_it)
        except ApiError as error:
            if error.code not in TEMPORARY:
                raise
            raise ConnectionError(error.message) from None  # for example, the node cannot be reached at the moment
        return exec_in_container(socket, write, action, stdin)

    # Questions

    def now(self) -> datetime:
        """The API server's time, in UTC: the times in objects are its own, and this machine's clock may be wrong."""
        return self._api.now()

    def version(self) -> tuple[int, int]:
        """The version that the API server offers, such as (1, 31); if it emulates an older version, that one."""
        content = self._api.json("GET", "/version")
        emulated = {"major": content.get("emulationMajor"), "minor": content.get("emulationMinor")}
        major, minor = (str(emulated[part] or content[part]) for part in ("major", "minor"))
        return int(major), int(minor.rstrip("+"))

    def may(self, verb: str, kind: str, subresource: str = "") -> bool:
        """Whether this user may do something, by a SelfSubjectAccessReview.

        Raises:
            ApiError: this user may not even ask.
        """
        api, plural, namespaced = KINDS[kind]
        attributes = {"verb": verb, "resource": plural, "subresource": subresource}
        attributes |= {"group": api.split("/")[2] if api.startswith("/apis") else ""}
        if namespaced:
            attributes["namespace"] = self.namespace
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = self._api.json("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {}, review)
        return bool(answer["status"]["allowed"])

    def _path(self, kind: str, name: str = "", *, everywhere: bool = False) -> str:
        api, plural, namespaced = KINDS[kind]
        if api.startswith("/apis/") and api.count("/") == 2:
            api = self._preferred(api)
        within = f"/namespaces/{quote(self.namespace, safe='')}" if namespaced and not everywhere else ""
        return f"{api}{within}/{plural}" + (f"/{quote(name, safe='')}" if name else "")

    def _preferred(self, group: str) -> str:
        """The path of an API group's preferred version, from the API server's discovery."""
        if group not in self._versions:
            content = self._api.json("GET", group)
            if "preferredVersion" not in content:
                raise self._api.not_kubernetes()
            self._versions[group] = f"/apis/{content['preferredVersion']['groupVersion']}"
        return self._versions[group]

    def _pages(
        self, kind: str, selector: str, fields: str, *, everywhere: bool = False
    ) -> Iterator[tuple[list[Object], str]]:
        return read_pages(self._api, self._path(kind, everywhere=everywhere), selector, fields)


def field_manager() -> str:
    """A unique name for the creator of one object."""
    return f"mnist-job-{secrets.token_hex(8)}"
