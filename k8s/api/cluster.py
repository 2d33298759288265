"""The one object that talks to the API server: objects as plain JSON, hiccups retried, refusals as sentences."""

from __future__ import annotations

import copy
import json
import random
import secrets
import shlex
import threading
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from k8s.api import exec as pod_exec
from k8s.api.errors import ApiError, LauncherError
from k8s.api.requests import PASSING, TIMEOUT_S, Api, request_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from k8s.api.exec import ExecResult
    from k8s.api.objects import Object

# The kinds that the launcher asks for: API, plural, and whether they live in a namespace. A group without a version is
# asked for in the one that the cluster prefers: which there are depends on what is installed there.
KINDS: dict[str, tuple[str, str, bool]] = {
    "Pod": ("/api/v1", "pods", True),
    "Event": ("/api/v1", "events", True),
    "Service": ("/api/v1", "services", True),
    "ServiceAccount": ("/api/v1", "serviceaccounts", True),
    "PersistentVolumeClaim": ("/api/v1", "persistentvolumeclaims", True),
    "ResourceQuota": ("/api/v1", "resourcequotas", True),
    "LimitRange": ("/api/v1", "limitranges", True),
    "PersistentVolume": ("/api/v1", "persistentvolumes", False),
    "Node": ("/api/v1", "nodes", False),
    "Namespace": ("/api/v1", "namespaces", False),
    "Job": ("/apis/batch/v1", "jobs", True),
    "CronJob": ("/apis/batch/v1", "cronjobs", True),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies", True),
    "StorageClass": ("/apis/storage.k8s.io/v1", "storageclasses", False),
    "ConfigMap": ("/api/v1", "configmaps", True),
    "NodePool": ("/apis/karpenter.sh/v1", "nodepools", False),
    "LocalQueue": ("/apis/kueue.x-k8s.io", "localqueues", True),
    "Workload": ("/apis/kueue.x-k8s.io", "workloads", True),
}
PAGE = 500
FIRST_WAIT_S, LAST_WAIT_S = 0.2, 5.0  # between two watches
SILENCE_S = 60.0  # of a log that is followed, before it is asked for anew
WATCH_S = 60  # of one watch request, and then another: for so long nobody notices that its connection is dead


class Cluster:
    """One namespace of a cluster.

    Args:
        log_in: gives a kubernetes.client.ApiClient with credentials, anew each time.
        namespace: where the runs are.
        say: shows one line that tells of an API server that does not answer.
    """

    def __init__(self, log_in: Callable[[], Any], namespace: str, say: Callable[[str], None] = lambda _: None) -> None:
        self._api, self.namespace = Api(log_in, say), namespace
        self._versions: dict[str, str] = {}  # the paths of groups' preferred versions
        # What keep() knows, by namespace, kind and selector, or why it knows it no more.
        self._kept: dict[tuple[str, str, str], list[Object] | LauncherError] = {}

    @property
    def patience_s(self) -> float:
        """For how long requests are tried again while the API server is away; infinite while a run is followed."""
        return self._api.patience_s

    @patience_s.setter
    def patience_s(self, seconds: float) -> None:
        self._api.patience_s = seconds

    @property
    def flags(self) -> str:
        """The flags that select this namespace of this cluster, for the commands that messages suggest."""
        return shlex.join(["-n", self.namespace])

    def in_namespace(self, namespace: str) -> Cluster:
        """Another namespace of the same cluster, over the same connections."""
        other = copy.copy(self)
        other.namespace = namespace
        return other

    # Objects

    def get(self, kind: str, name: str) -> Object | None:
        """An object; None where there is none of that name."""
        try:
            found = self._api.json("GET", self._path(kind, name))
        except ApiError as error:
            if error.code == 404:
                return None
            raise
        if "metadata" not in found:
            raise self._api.stranger()
        return found

    def select(self, kind: str, selector: str = "", fields: str = "", *, everywhere: bool = False) -> list[Object]:
        """The objects that a label and a field selector name, page by page; in all namespaces if everywhere."""
        if not fields and not everywhere and (kept := self._kept.get((self.namespace, kind, selector))) is not None:
            if isinstance(kept, LauncherError):
                raise kept
            return kept
        return self._list(kind, selector, fields, everywhere=everywhere)[0]

    def create(self, new: Object, *, dry_run: bool = False) -> Object:
        """Create an object as it is; in a dry run the API server only says what it would make of it."""
        kind, lost = new["kind"], threading.Event()
        # The API server keeps in the object who made it, so that an object whose answer was lost is known again.
        query = {"dryRun": "All"} if dry_run else {"fieldManager": field_manager()}
        try:
            return self._api.json("POST", self._path(kind), query, new, lost=lost)
        except ApiError as error:
            if error.reason != "AlreadyExists" or not lost.is_set() or dry_run:
                raise
            found = self.get(kind, new["metadata"]["name"])
            managers = (found or {}).get("metadata", {}).get("managedFields", [])
            if found is None or query["fieldManager"] not in [manager.get("manager") for manager in managers]:
                raise
            return found

    def patch(self, kind: str, name: str, change: Object, subresource: str = "") -> Object:
        """Change an object, or its status, by a JSON merge patch (RFC 7386)."""
        path = self._path(kind, name) + (f"/{subresource}" if subresource else "")
        return self._api.json("PATCH", path, {}, change, "application/merge-patch+json")

    def replace(self, new: Object, *, dry_run: bool = False) -> Object:
        """Put an object in the place of the one of its name, if that is still of its resourceVersion."""
        query = {"dryRun": "All"} if dry_run else {}
        return self._api.json("PUT", self._path(new["kind"], new["metadata"]["name"]), query, new)

    def delete(self, kind: str, name: str, *, grace_s: int | None = None, uid: str = "", orphan: bool = False) -> None:
        """Delete an object, and what it owns after it; that it is gone already is no error.

        Args:
            kind: its kind.
            name: its name.
            grace_s: seconds that a pod gets to end; its own where None.
            uid: its UID, if one of the same name that came in its place is to stay.
            orphan: whether what it owns is to stay, and be nobody's.
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
        self, kind: str, selector: str = "", fields: str = "", stop: threading.Event | None = None
    ) -> Iterator[dict[str, Object]]:
        """The selected objects by UID, first as they are, then again after each change, until stop is set.

        A watch that ends in good order goes on where it ended; one that breaks off is begun again from a new list,
        after a while that grows as long as none brings anything.
        """
        stop = stop or threading.Event()
        version, wait_s = "", FIRST_WAIT_S
        while not stop.is_set():
            if not version:
                items, version = self._list(kind, selector, fields)
                known = {item["metadata"]["uid"]: item for item in items}
                yield dict(known)
            query = {"labelSelector": selector, "fieldSelector": fields, "watch": "1", "resourceVersion": version}
            query |= {"timeoutSeconds": str(WATCH_S), "allowWatchBookmarks": "true"}
            version, news, began = "", False, time.monotonic()
            try:
                lines = self._api.stream(self._path(kind), query, WATCH_S)
                with suppress(OSError, ValueError), closing(lines):
                    last = query["resourceVersion"]
                    for line in lines:
                        event = json.loads(line)
                        if stop.is_set() or event["type"] == "ERROR":  # 410 Gone: the version is too old
                            break
                        item, news = event["object"], True
                        last = item["metadata"]["resourceVersion"]
                        if event["type"] == "BOOKMARK":
                            continue
                        if event["type"] == "DELETED":
                            known.pop(item["metadata"]["uid"], None)
                        else:
                            known[item["metadata"]["uid"]] = item
                        yield dict(known)
                    else:
                        version = last
            except ApiError as error:
                if error.code not in PASSING | {410}:
                    raise
            lasted = news or time.monotonic() - began > LAST_WAIT_S
            wait_s = FIRST_WAIT_S if lasted else min(2 * wait_s, LAST_WAIT_S)
            stop.wait(wait_s * random.uniform(0.75, 1.25))  # noqa: S311 - no secret

    def keep(self, kind: str, selector: str) -> None:
        """From now on know these objects by one watch: select() needs no list each time. Returns once they are known.

        Raises:
            LauncherError: they may not be listed or watched; where that changes later, select() raises it.
        """
        known = threading.Event()

        def watch() -> None:
            try:
                for found in self.watch(kind, selector):
                    self._kept[self.namespace, kind, selector] = list(found.values())
                    known.set()
            except LauncherError as error:
                self._kept[self.namespace, kind, selector] = error
                known.set()

        threading.Thread(target=watch, daemon=True).start()
        known.wait()
        self.select(kind, selector)

    # Pods

    def logs(
        self,
        pod: str,
        container: str,
        *,
        follow: bool = False,
        since_time: str = "",
        since_s: int | None = None,
        tail: int | None = None,
        timestamps: bool = False,
    ) -> Iterator[str]:
        """The lines of a container's log, without their line ends.

        Args:
            pod: its name.
            container: its name.
            follow: whether to go on until the container ends. A last line without its end is then left out: the
                connection may have ended in it.
            since_time: from this time on, RFC 3339; whole seconds count.
            since_s: from so many seconds ago on.
            tail: only so many last lines.
            timestamps: whether each line begins with the time at which it was written, RFC 3339 in nanoseconds.

        Raises:
            ApiError: there is no such pod (404), or its container has not started (400).
            OSError: the connection broke; while following, also after a minute in which nothing was written.
        """
        query = {"container": container, "timestamps": str(timestamps).lower(), "follow": str(follow).lower()}
        if since_time:
            query["sinceTime"] = since_time
        if since_s is not None:
            query["sinceSeconds"] = str(since_s)
        if tail is not None:
            query["tailLines"] = str(tail)
        # A connection that is dead is as silent as a worker that waits for others.
        silence_s = SILENCE_S if follow else TIMEOUT_S[1]
        yield from self._api.stream(f"{self._path('Pod', pod)}/log", query, silence_s, torn=not follow)

    def run_in(
        self,
        pod: str,
        container: str,
        command: Sequence[str],
        write: Callable[[bytes], Any],
        stdin: Iterable[bytes] = (),
    ) -> ExecResult:
        """Run a command in a container, and pass its standard output to write() piece by piece.

        The command's standard input stays open after the last byte of stdin.

        Raises:
            ConnectionError: the connection broke.
            ApiError: the pod is gone, or exec is not allowed.
        """
        from kubernetes.stream.ws_client import get_websocket_url  # noqa: PLC0415

        query = [("container", container), ("stdout", "true"), ("stderr", "true")]
        query += [("stdin", "true")] if stdin else []
        query += [("command", word) for word in command]

        def run(client: Any) -> ExecResult:
            url, headers = request_of(client, "GET", f"{self._path('Pod', pod)}/exec", {})
            url = get_websocket_url(url, query)
            return pod_exec.run(client.configuration, url, headers, write, f"run a command in pod {pod}", stdin)

        return self._api.logged_in(run)

    # Questions

    def version(self) -> tuple[int, int]:
        """The API server's version, as (1, 31)."""
        answer = self._api.json("GET", "/version")
        return int(answer["major"]), int(answer["minor"].rstrip("+"))

    def may(self, verb: str, kind: str, subresource: str = "") -> bool:
        """Whether this user may do that, by a SelfSubjectAccessReview.

        Raises:
            ApiError: even that may not be asked.
        """
        api, plural, namespaced = KINDS[kind]
        asked = {"verb": verb, "resource": plural, "subresource": subresource}
        asked |= {"group": api.split("/")[2] if api.startswith("/apis") else ""}
        if namespaced:
            asked["namespace"] = self.namespace
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        answer = self._api.json("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {}, review)
        return bool(answer["status"]["allowed"])

    def _path(self, kind: str, name: str = "") -> str:
        api, plural, namespaced = KINDS[kind]
        if api.startswith("/apis/") and api.count("/") == 2:
            api = self._preferred(api)
        within = f"/namespaces/{quote(self.namespace, safe='')}" if namespaced else ""
        return f"{api}{within}/{plural}" + (f"/{quote(name, safe='')}" if name else "")

    def _preferred(self, group: str) -> str:
        """The path of an API group's preferred version, by the API server's discovery."""
        if group not in self._versions:
            found = self._api.json("GET", group)
            if "preferredVersion" not in found:
                raise self._api.stranger()
            self._versions[group] = f"/apis/{found['preferredVersion']['groupVersion']}"
        return self._versions[group]

    def _list(self, kind: str, selector: str, fields: str, *, everywhere: bool = False) -> tuple[list[Object], str]:
        items: list[Object] = []
        path = "/".join(KINDS[kind][:2]) if everywhere else self._path(kind)
        query = {"labelSelector": selector, "fieldSelector": fields, "limit": str(PAGE)}
        while True:
            page = self._api.json("GET", path, query)
            if "items" not in page:
                raise self._api.stranger()
            for item in page["items"]:
                item["metadata"].pop("managedFields", None)  # a third of a pod, and nobody reads it here
            items += page["items"]
            if not (token := page["metadata"].get("continue")):
                return items, page["metadata"]["resourceVersion"]
            query["continue"] = token


def field_manager() -> str:
    """A name for whoever makes one object, which nobody else has."""
    return f"mnist-job-{secrets.token_hex(8)}"
