"""Requests to the API server: sent, retried while it does not answer, and read whole or line by line."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from ssl import SSLCertVerificationError
from typing import TYPE_CHECKING, Any, TypeVar

from urllib3 import Timeout
from urllib3.exceptions import SSLError

from k8s.api.errors import ApiError, LauncherError, http_errors, in_words, innermost, refusal, unreached

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from k8s.api.objects import Object

PATIENCE_S = 30.0  # how long a request is retried
SILENT_S = 10.0  # how long before this is reported to the user
TIMEOUT_S = (5.0, 30.0)  # to connect, and between two parts of a response
LOGIN_S = 60.0  # how long credentials that were accepted before are renewed
LOGIN_EVERY_S = 5.0
TEMPORARY = {429, 500, 502, 503, 504}
UNAVAILABLE = TEMPORARY - {500}  # 500 is an answer: an admission webhook failed, for example
T = TypeVar("T")


class Api:
    """One API server.

    Args:
        log_in: gives a kubernetes.client.ApiClient with fresh credentials.
        say: shows one line about an API server that does not answer.
        patience_s: how long a request is retried; a limit on each attempt too.

    Attributes:
        patience_s: how long a request is retried while the API server does not answer.
    """

    def __init__(self, log_in: Callable[[], Any], say: Callable[[str], None], patience_s: float = PATIENCE_S) -> None:
        self._client, self._log_in, self._say = log_in(), log_in, say
        self._logging_in = threading.Lock()
        self._accepted = False  # whether the API server has accepted the credentials before
        self.patience_s = patience_s
        self._timeout_s = (min(TIMEOUT_S[0], patience_s), min(TIMEOUT_S[1], patience_s))
        self._warned = False  # whether it was reported that it does not answer

    def json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
        *,
        lost: threading.Event | None = None,
    ) -> Object:
        """The whole response to a request, retried while the API server is away or too busy.

        lost is set once a response may have been lost: the API server may have done what was requested.
        """
        began, pause_s = time.monotonic(), 0.2
        while True:
            try:
                return self._attempt(method, path, query or {}, body, content_type)
            except ApiError as error:
                if not is_temporary(error, method):
                    raise
                refused, reason = error, error.message
            except OSError as error:
                refused, reason = None, in_words(error)
            if lost and not (refused and refused.code in (409, 429)):
                lost.set()
            self._be_patient(time.monotonic() - began, refused, reason)
            time.sleep(pause_s * random.uniform(0.75, 1.25))  # noqa: S311 - no secret
            pause_s = min(2 * pause_s, 5.0)

    def _attempt(
        self, method: str, path: str, query: Mapping[str, str], body: Object | None, content_type: str
    ) -> Object:
        """The whole response to a request that is sent once."""
        response = self.logged_in(lambda client: send(client, method, path, query, body, content_type, self._timeout_s))
        if response.status >= 400:
            raise refusal(response.status, response.data, f"{method.lower()} {path}")
        self._warned = False
        try:
            content = json.loads(response.data or b"{}")
        except ValueError:
            content = None
        if not isinstance(content, dict):  # a proxy's own page, for example
            raise self.not_kubernetes()
        return content

    def _be_patient(self, passed_s: float, refused: ApiError | None, reason: str) -> None:
        """Report once that the API server does not answer.

        Raises:
            LauncherError: the patience is used up.
        """
        if passed_s > self.patience_s:
            if refused and refused.code not in UNAVAILABLE:
                raise refused
            message = f"the API server at {self._client.configuration.host} does not answer: {reason}"
            hint = "check that the cluster is up, and the server's address in the kubeconfig"
            raise unreached(message, hint) from None
        if passed_s > SILENT_S and not self._warned:
            self._warned = True
            self._say(f"the API server has not answered for {passed_s:.0f} s ({reason}); still trying")

    def stream(
        self, path: str, query: Mapping[str, str], silence_s: float | None, *, torn: bool = False
    ) -> Generator[str]:
        """The lines of a response as they arrive; torn: also a last one without its line end."""
        times_s = (self._timeout_s[0], silence_s)
        response = self.logged_in(lambda client: send(client, "GET", path, query, None, "application/json", times_s))
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
        except http_errors() as error:
            raise ConnectionError(in_words(error)) from None
        finally:
            response.close()

    def logged_in(self, ask: Callable[[Any], T]) -> T:
        """What ask(client) returns, with fresh credentials if the API server does not accept the current ones.

        If it has accepted some before, they may just be rotating: they are renewed for LOGIN_S seconds.

        Raises:
            LauncherError: 3, the API server does not accept the credentials, or there are none.
        """
        began, again = time.monotonic(), False
        problem = unreached(
            "the API server does not accept the credentials (401 Unauthorized)", "log in to the cluster again"
        )
        while True:
            client = self._client
            try:
                result = ask(client)
            except ApiError as error:
                if error.code != 401:
                    raise
            else:
                self._accepted = True
                return result
            if again:
                if not self._accepted or time.monotonic() - began > LOGIN_S:
                    raise problem
                time.sleep(LOGIN_EVERY_S)
            again = True
            with self._logging_in:
                if client is self._client:  # otherwise another thread has logged in meanwhile
                    try:
                        self._client = self._log_in()
                    except LauncherError as error:
                        problem = error

    def not_kubernetes(self) -> LauncherError:
        """The error for a response that no API server gives."""
        message = f"{self._client.configuration.host} does not answer like a Kubernetes API server"
        return unreached(message, "check the server's address in the kubeconfig")


def is_temporary(refused: ApiError, method: str) -> bool:
    """Whether a request that the API server refused may succeed the next time.

    Creating an object conflicts when others change a quota's count at the same time. Callers handle other conflicts.
    """
    return refused.code in TEMPORARY or (refused.reason == "Conflict" and method == "POST")


def request_of(client: Any, method: str, path: str, query: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The URL and the headers of a request, with its credentials."""
    values = [(name, value) for name, value in query.items() if value]
    _, url, headers, *_ = client.param_serialize(method, path, query_params=values, auth_settings=["BearerToken"])
    return url, headers


def send(
    client: Any,
    method: str,
    path: str,
    query: Mapping[str, str],
    body: Object | None,
    content_type: str,
    timeout_s: tuple[float, float | None],
) -> Any:
    """urllib3's response to a request.

    Raises:
        OSError: no response.
        ApiError: 401, the API server does not accept the credentials.
        LauncherError: 3, the API server's certificate cannot be verified.
    """
    url, headers = request_of(client, method, path, query)
    headers |= {"Accept": "application/json", "Content-Type": content_type}
    data = None if body is None else json.dumps(body)
    timeout = Timeout(connect=timeout_s[0], read=timeout_s[1])
    try:
        response = client.rest_client.pool_manager.request(
            method, url, body=data, headers=headers, timeout=timeout, retries=False, preload_content=False
        )
        if response.status >= 400 or ("watch" not in query and "follow" not in query):
            response.read(cache_content=True)
    except http_errors() as error:
        # Retrying does not help here, unlike with a server that goes away during the handshake.
        if isinstance(error, SSLError) and isinstance(innermost(error), SSLCertVerificationError):
            reason = re.sub("^certificate verify failed: ", "", in_words(error))
            message = f"certificate verification failed for the API server at {client.configuration.host}: {reason}"
            raise unreached(message, "check the certificates in the kubeconfig") from None
        raise ConnectionError(in_words(error)) from None
    if response.status == 401:
        raise refusal(response.status, response.data, f"{method.lower()} {path}")
    return response
