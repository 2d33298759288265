"""The one object that talks to the API server: objects as plain JSON, hiccups retried, refusals as sentences."""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from k8s import remote
from k8s.errors import ApiError, LauncherError, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from k8s.contract import Object
    from k8s.remote import Ended

# The kinds that the launcher asks for: API, plural, and whether they live in a namespace.
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
    "LocalQueue": ("/apis/kueue.x-k8s.io/v1beta1", "localqueues", True),
    "Workload": ("/apis/kueue.x-k8s.io/v1beta1", "workloads", True),
}
POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
PAGE = 500
PATIENCE_S = 30.0  # for how long a request is tried again
SILENT_S = 10.0  # and after how long that is told
TIMEOUT_S = (5.0, 30.0)  # to connect, and between two parts of an answer
SILENCE_S = 60.0  # of a log that is followed, before it is asked for anew
WATCH_S = 60  # of one watch request, and then another: for so long nobody notices that its connection is dead
CONNECTIONS = 32  # kept open for the threads that ask at the same time; urllib3 complains of each beyond it
PASSING = {429, 500, 502, 503, 504}
AWAY = PASSING - {500}  # not its own word on the request, as 500 is where a webhook does not answer


class Cluster:
    """One namespace of a cluster.

    Args:
        client: a kubernetes.client.ApiClient.
        namespace: where the runs are.
        say: shows one line that tells of an API server that does not answer.

    Attributes:
        patience_s: for how long requests are tried again while the API server is away; set it to infinity to follow.
    """

    def __init__(self, client: Any, namespace: str, say: Callable[[str], None] = lambda _: None) -> None:
        self._client, self.namespace, self._say = client, namespace, say
        self.patience_s = PATIENCE_S
        self._told = False  # whether it was said that the API server is away

    # Objects

    def get(self, kind: str, name: str) -> Object | None:
        """An object; None where there is none of that name."""
        try:
            found = self._json("GET", self._path(kind, name))
        except ApiError as error:
            if error.code == 404:
                return None
            raise
        if "metadata" not in found:
            raise self._stranger()
        return found

    def select(self, kind: str, selector: str = "", fields: str = "", *, everywhere: bool = False) -> list[Object]:
        """The objects that a label and a field selector name, page by page; in all namespaces if everywhere."""
        return self._list(kind, selector, fields, everywhere=everywhere)[0]

    def create(self, new: Object, *, dry_run: bool = False) -> Object:
        """Create an object as it is; in a dry run the API server only says what it would make of it."""
        query = {"dryRun": "All"} if dry_run else {}
        kind, lost = new["kind"], threading.Event()
        try:
            return self._json("POST", self._path(kind), query, new, lost=lost)
        except ApiError as error:
            # An answer was lost before: it is this very object.
            if error.reason != "AlreadyExists" or not lost.is_set() or dry_run:
                raise
            if (found := self.get(kind, new["metadata"]["name"])) is None:
                raise
            return found

    def patch(self, kind: str, name: str, change: Object) -> Object:
        """Change an object by a JSON merge patch (RFC 7386)."""
        return self._json("PATCH", self._path(kind, name), {}, change, "application/merge-patch+json")

    def delete(self, kind: str, name: str, *, grace_s: int | None = None, uid: str = "") -> None:
        """Delete an object, and what it owns after it; that it is gone already is no error.

        Args:
            kind: its kind.
            name: its name.
            grace_s: seconds that a pod gets to end; its own where None.
            uid: its UID, if one of the same name that came in its place is to stay.
        """
        options: Object = {"propagationPolicy": "Background"}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            self._json("DELETE", self._path(kind, name), {}, options)
        except ApiError as error:
            if error.code != 404 and not (uid and error.code == 409):
                raise

    def watch(
        self, kind: str, selector: str = "", fields: str = "", stop: threading.Event | None = None
    ) -> Iterator[dict[str, Object]]:
        """The selected objects by UID, first as they are, then again after each change, until stop is set.

        A watch that breaks off is begun again from a new list.
        """
        stop = stop or threading.Event()
        while not stop.is_set():
            items, version = self._list(kind, selector, fields)
            known = {item["metadata"]["uid"]: item for item in items}
            yield dict(known)
            query = {"labelSelector": selector, "fieldSelector": fields, "watch": "1", "resourceVersion": version}
            query |= {"timeoutSeconds": str(WATCH_S), "allowWatchBookmarks": "true"}
            try:
                with suppress(OSError, ValueError), closing(self._stream(self._path(kind), query, WATCH_S)) as lines:
                    for line in lines:
                        event = json.loads(line)
                        if stop.is_set() or event["type"] == "ERROR":  # 410 Gone: the version is too old
                            break
                        if event["type"] == "BOOKMARK":
                            continue
                        item = event["object"]
                        if event["type"] == "DELETED":
                            known.pop(item["metadata"]["uid"], None)
                        else:
                            known[item["metadata"]["uid"]] = item
                        yield dict(known)
            except ApiError as error:
                if error.code not in PASSING | {410}:
                    raise
            stop.wait(0.2)

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
        yield from self._stream(f"{self._path('Pod', pod)}/log", query, silence_s, torn=not follow)

    def run_in(self, pod: str, container: str, command: Sequence[str], write: Callable[[bytes], Any]) -> Ended:
        """Run a command in a container, its standard output going to write() as it comes.

        Raises:
            ConnectionError: the connection broke.
            ApiError: the pod is gone, or exec is not allowed.
        """
        from kubernetes.stream.ws_client import get_websocket_url  # noqa: PLC0415

        query = [("container", container), ("stdout", "true"), ("stderr", "true")]
        query += [("command", word) for word in command]
        _, url, headers, _, _ = self._request_of("GET", f"{self._path('Pod', pod)}/exec", {})
        url = get_websocket_url(url, query)
        return remote.run(self._client.configuration, url, headers, write, f"run a command in pod {pod}")

    # Questions

    def version(self) -> tuple[int, int]:
        """The API server's version, as (1, 31)."""
        answer = self._json("GET", "/version")
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
        answer = self._json("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {}, review)
        return bool(answer["status"]["allowed"])

    # Requests

    def _path(self, kind: str, name: str = "") -> str:
        api, plural, namespaced = KINDS[kind]
        within = f"/namespaces/{quote(self.namespace, safe='')}" if namespaced else ""
        return f"{api}{within}/{plural}" + (f"/{quote(name, safe='')}" if name else "")

    def _list(self, kind: str, selector: str, fields: str, *, everywhere: bool = False) -> tuple[list[Object], str]:
        items: list[Object] = []
        path = "/".join(KINDS[kind][:2]) if everywhere else self._path(kind)
        query = {"labelSelector": selector, "fieldSelector": fields, "limit": str(PAGE)}
        while True:
            page = self._json("GET", path, query)
            if "items" not in page:
                raise self._stranger()
            items += page["items"]
            if not (token := page["metadata"].get("continue")):
                return items, page["metadata"]["resourceVersion"]
            query["continue"] = token

    def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
        *,
        lost: threading.Event | None = None,
    ) -> Object:
        """One request and its whole answer, tried again while the API server is away or too busy."""
        began, wait_s = time.monotonic(), 0.2
        while True:
            try:
                response = self._send(method, path, query or {}, body, content_type, TIMEOUT_S)
                text: bytes = response.data
                if response.status < 400:
                    self._told = False
                    return self._read(text)
                refused = refusal(response.status, text, f"{method.lower()} {path}")
                if refused.code not in PASSING:
                    raise refused
                why = refused.message
            except OSError as error:
                refused, why = None, plainly(error)
            if lost and not (refused and refused.code == 429):
                lost.set()
            passed = time.monotonic() - began
            if passed > self.patience_s:
                if refused and refused.code not in AWAY:
                    raise refused
                host = self._client.configuration.host
                message = f"the API server at {host} does not answer: {why}"
                raise LauncherError(Status.UNREACHED, message, "see whether the cluster is up") from None
            if passed > SILENT_S and not self._told:
                self._told = True
                self._say(f"the API server has not answered for {passed:.0f} s ({why}); still trying")
            time.sleep(wait_s * random.uniform(0.75, 1.25))  # noqa: S311 - no secret
            wait_s = min(2 * wait_s, 5.0)

    def _read(self, text: bytes) -> Object:
        try:
            found: Object = json.loads(text or b"{}")
        except ValueError:  # as where a proxy shows its own page
            raise self._stranger() from None
        return found

    def _stranger(self) -> LauncherError:
        message = f"what answers at {self._client.configuration.host} is no API server"
        return LauncherError(Status.UNREACHED, message, "see the server's address in the kubeconfig")

    def _stream(
        self, path: str, query: Mapping[str, str], silence_s: float | None, *, torn: bool = False
    ) -> Generator[str]:
        """The lines of an answer, as they come; the last one without its end only if torn ones are wanted."""
        response = self._send("GET", path, query, None, "application/json", (TIMEOUT_S[0], silence_s))
        if response.status >= 400:
            raise refusal(response.status, response.data, f"get {path}")
        rest = b""
        try:
            for chunk in response.stream(2**16):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line.decode(errors="replace")
            if rest and torn:
                yield rest.decode(errors="replace")
        except _http_errors() as error:
            raise ConnectionError(plainly(error)) from None
        finally:
            response.close()

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Object | None,
        content_type: str,
        timeout_s: tuple[float, float | None],
    ) -> Any:
        """Send a request; returns urllib3's response.

        Raises:
            OSError: there was no answer.
            LauncherError: this machine has no right to ask.
        """
        from ssl import SSLCertVerificationError  # noqa: PLC0415

        from urllib3 import Timeout  # noqa: PLC0415
        from urllib3.exceptions import SSLError  # noqa: PLC0415

        _, url, headers, _, _ = self._request_of(method, path, query)
        headers |= {"Accept": "application/json", "Content-Type": content_type}
        data = None if body is None else json.dumps(body)
        try:
            response = self._client.rest_client.pool_manager.request(
                method,
                url,
                body=data,
                headers=headers,
                timeout=Timeout(*timeout_s),
                retries=False,
                preload_content=False,
            )
            if response.status >= 400 or ("watch" not in query and "follow" not in query):
                response.read(cache_content=True)
        except _http_errors() as error:
            # No trying again mends these; a server that goes away in the handshake is another matter.
            if isinstance(error, SSLError) and isinstance(innermost(error), SSLCertVerificationError):
                message = f"the API server at {self._client.configuration.host} is not to be trusted: {plainly(error)}"
                raise LauncherError(Status.UNREACHED, message, "see the certificates in the kubeconfig") from None
            raise ConnectionError(plainly(error)) from None
        if response.status == 401:
            message = "the API server does not accept the credentials (401 Unauthorized)"
            raise LauncherError(Status.UNREACHED, message, "log in to the cluster again")
        return response

    def _request_of(self, method: str, path: str, query: Mapping[str, str]) -> Any:
        values = [(name, value) for name, value in query.items() if value]
        return self._client.param_serialize(method, path, query_params=values, auth_settings=["BearerToken"])


def connect(context: str | None, namespace: str | None, say: Callable[[str], None]) -> Cluster:
    """The cluster of the kubeconfig's context, or the one around this pod.

    Args:
        context: a context of the kubeconfig; its present one where None.
        namespace: the context's, or the pod's, where None.
        say: as in Cluster.

    Raises:
        LauncherError: 3, when there is neither, or no such context.
    """
    from kubernetes import client, config  # noqa: PLC0415
    from yaml import YAMLError  # noqa: PLC0415

    # What is no kubeconfig at all meets the client's code unchecked.
    kubeconfig = os.environ.get("KUBECONFIG") or (Path.home() / ".kube" / "config").exists()
    unusable = (config.ConfigException, YAMLError, OSError, LookupError, TypeError, ValueError, AttributeError)
    try:
        try:
            contexts, active = config.list_kube_config_contexts()
        except config.ConfigException:
            if not context:
                raise
            contexts, active = [], None  # the client lists none where none is the present one
        chosen = next((c for c in contexts if c["name"] == context), None) if context else active
        if chosen is None and contexts:
            names = ", ".join(c["name"] for c in contexts)
            raise LauncherError(Status.UNREACHED, f"the kubeconfig has no context {context!r}", f"it has {names}")
        settings = client.Configuration(connection_pool_maxsize=CONNECTIONS)
        api = config.new_client_from_config(context=context, client_configuration=settings)
        inside = chosen["context"].get("namespace") if chosen else None
    except unusable as error:
        why = " ".join(str(error).split()).rstrip(".")
        if context or kubeconfig:  # a pod's own cluster is not the one that was meant
            raise LauncherError(Status.UNREACHED, f"the kubeconfig cannot be used: {why}") from None
        try:
            settings = client.Configuration(connection_pool_maxsize=CONNECTIONS)
            config.load_incluster_config(client_configuration=settings)
            api = client.ApiClient(settings)
            inside = POD_NAMESPACE.read_text(encoding="utf-8").strip()
        except (config.ConfigException, OSError):
            message = f"there is no cluster to talk to: {why}"
            raise LauncherError(Status.UNREACHED, message, "set KUBECONFIG, or make ~/.kube/config") from None
    return Cluster(api, namespace or inside or "default", say)


def refusal(code: int, text: bytes, what: str) -> ApiError:
    """The error in an answer, which is mostly a Status object."""
    try:
        status = json.loads(text)
        return ApiError(code, status.get("reason") or "", status.get("message") or f"HTTP {code}", what)
    except (ValueError, AttributeError):
        return ApiError(code, "", f"HTTP {code}: {text[:200].decode(errors='replace').strip()}", what)


def plainly(error: BaseException) -> str:
    """The last cause of a connection's end, without the objects, numbers and places that its message holds."""
    error = innermost(error)
    text = str(getattr(error, "strerror", None) or error)
    text = re.sub(r"^HTTPS?Connection(Pool)?\([^)]*\): (Failed to establish a new connection: )?", "", text)
    text = re.sub(r"\[[^\]]*\] | \((_ssl\.c:|read timeout=)[^)]*\)", "", text)
    return text.rstrip(".") or type(error).__name__


def innermost(error: BaseException) -> BaseException:
    """The error that others wrap."""
    while inner := next((cause for cause in reversed(error.args) if isinstance(cause, BaseException)), None):
        error = inner
    return error


def _http_errors() -> tuple[type[Exception], ...]:
    import http.client  # noqa: PLC0415

    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    return HTTPError, http.client.HTTPException, OSError
