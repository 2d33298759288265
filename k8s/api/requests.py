"""Requests to the API server: sent, retried while it does not answer, and read whole or line by line."""

from __future__ import annotations

import json
import math
import random
import re
import threading
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from ssl import SSLCertVerificationError
from typing import TYPE_CHECKING, Any, TypeVar

from urllib3 import HTTPHeaderDict, Timeout
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ProxyError, SSLError
from urllib3.util import parse_url

from k8s.api.errors import (
    ApiError,
    LauncherError,
    NoConnectionError,
    http_errors,
    in_words,
    innermost,
    refusal,
    unreached,
)
from k8s.api.proxy import without_password

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping
    from socket import socket

    from k8s.api.objects import Object

PATIENCE_S = 30.0  # how long a request is retried
# How long a request is retried if no connection is made before the first answer: the address may be wrong, or the
# cluster may be stopped.
FIRST_S = 1.0
RETRY_AFTER_S = 30.0  # the longest time to wait because the API server asks for it
SILENT_S = 10.0  # how long before this is reported to the user
TIMEOUT_S = (5.0, 30.0)  # to connect, and between two parts of a response
LOGIN_S = 60.0  # how long credentials that were accepted before are renewed
LOGIN_EVERY_S = 5.0
# How long after an outage a refused request (403) is repeated: an API server that has just started does not know the
# roles yet, and refuses what it permitted before.
ROLES_S = 20.0
ROLES_EVERY_S = 1.0
TEMPORARY = {429, 500, 502, 503, 504}
UNAVAILABLE = TEMPORARY - {500}  # 500 is an answer: an admission webhook failed, for example
T = TypeVar("T")


class Api:
    """One API server.

    Args:
        log_in: gives a kubernetes.client.ApiClient with fresh credentials.
        say: shows one line about an API server that does not answer.
        patience_s: how long a request is retried; a limit on each attempt too. None for the default.

    Attributes:
        patience_s: how long a request is retried while the API server does not answer.
    """

    def __init__(self, log_in: Callable[[], Any], say: Callable[[str], None], patience_s: float | None = None) -> None:
        self._client, self._log_in, self._say = log_in(), log_in, say
        self._logging_in = threading.Lock()
        self._accepted = False  # whether the API server has accepted the credentials before
        self._answered = False  # whether it has answered at all
        self._lost_at = -math.inf  # when it last gave no response, of time.monotonic()
        self.patience_s = PATIENCE_S if patience_s is None else patience_s
        self._first_s = FIRST_S if patience_s is None else patience_s
        self._timeout_s = (min(TIMEOUT_S[0], self.patience_s), min(TIMEOUT_S[1], self.patience_s))
        self._not_before = 0.0  # when the next request may be sent, of time.monotonic(): Retry-After
        self._warned = False  # whether it was reported that it does not answer
        self._clock: tuple[datetime, float] | None = None  # its time in a response, and when that came

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
                refused, reason, nobody = error, error.message, False
            except OSError as error:
                refused, reason = None, in_words(error)
                nobody = isinstance(error, NoConnectionError)
            if lost and not nobody and not (refused and refused.code in (409, 429)):
                lost.set()
            patience_s = min(self._first_s, self.patience_s) if nobody and not self._answered else self.patience_s
            self._be_patient(time.monotonic() - began, patience_s, refused, reason)
            time.sleep(pause_s * random.uniform(0.75, 1.25))  # noqa: S311 - no secret
            pause_s = min(2 * pause_s, 5.0)

    def _attempt(
        self, method: str, path: str, query: Mapping[str, str], body: Object | None, content_type: str
    ) -> Object:
        """The whole response to a request that is sent once."""
        response = self._ask(method, path, query, body, content_type, self._timeout_s)
        self._warned = False
        try:
            content = json.loads(response.data or b"{}")
        except ValueError:
            content = None
        if not isinstance(content, dict):  # a proxy's own page, for example
            raise self.not_kubernetes()
        return content

    def _be_patient(self, passed_s: float, patience_s: float, refused: ApiError | None, reason: str) -> None:
        """Report once that the API server does not answer.

        Raises:
            LauncherError: the patience is used up.
        """
        if passed_s > patience_s:
            if refused and refused.code not in UNAVAILABLE:
                raise refused
            message = f"the API server at {place(self._client.configuration)} does not answer: {reason}"
            hint = "check that the cluster is up, and the server's address in the kubeconfig"
            if self._client.configuration.proxy:
                hint += "; the proxy comes from there (proxy-url) or from HTTPS_PROXY, which NO_PROXY restricts"
            raise unreached(message, hint) from None
        if passed_s > SILENT_S and not self._warned:
            self._warned = True
            self._say(f"the API server has not answered for {passed_s:.0f} s ({reason}); still trying")

    def stream(
        self, path: str, query: Mapping[str, str], silence_s: float | None, *, torn: bool = False
    ) -> Generator[str]:
        """The lines of a response as they arrive; torn: also a last one without its line end."""
        times_s = (self._timeout_s[0], silence_s)
        response = self._ask("GET", path, query, None, "application/json", times_s)
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

    def now(self) -> datetime:
        """The API server's time, in UTC, from its newest response; this machine's if its responses have no time."""
        if self._clock is None:
            self.json("GET", "/version")
        if self._clock is None:
            return datetime.now(UTC)
        date, read_at = self._clock
        return date + timedelta(seconds=time.monotonic() - read_at)

    def _read_clock(self, response: Any) -> None:
        """Remember the time of a response (RFC 9110, Date), and when it came."""
        with suppress(KeyError, ValueError, TypeError):  # a proxy's own page may lack it
            self._clock = parsedate_to_datetime(response.headers["Date"]).astimezone(UTC), time.monotonic()

    def _ask(self, method: str, path: str, *request: Any) -> Any:
        """The response of send() to a request that the API server does not refuse.

        Raises:
            ApiError: the API server refuses the request.
        """

        def ask(client: Any) -> Any:
            response = send(client, method, path, *request)
            self._read_clock(response)
            if response.status >= 400:
                after = response.headers.get("Retry-After", "")
                raise refusal(response.status, response.data, f"{method.lower()} {path}", after)
            return response

        return self.logged_in(ask)

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
            time.sleep(max(0.0, self._not_before - time.monotonic()))
            try:
                result = self._permitted(client, ask)
            except ApiError as error:
                wait_s = min(error.retry_after_s, RETRY_AFTER_S, self.patience_s)
                self._not_before = max(self._not_before, time.monotonic() + wait_s)
                self._answered = True
                if error.code != 401:
                    raise
            else:
                self._accepted = self._answered = True
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

    def _permitted(self, client: Any, ask: Callable[[Any], T]) -> T:
        """What ask(client) returns; after an outage, a request that is forbidden is sent again for ROLES_S seconds."""
        while True:
            try:
                return ask(client)
            except ApiError as error:
                if error.code != 403 or not self._accepted or time.monotonic() - self._lost_at > ROLES_S:
                    raise
                time.sleep(ROLES_EVERY_S)
            except OSError:
                self._lost_at = time.monotonic()
                raise

    def not_kubernetes(self) -> LauncherError:
        """The error for a response that no API server gives."""
        message = f"{self._client.configuration.host} does not answer like a Kubernetes API server"
        return unreached(message, "check the server's address in the kubeconfig")


def is_temporary(refused: ApiError, method: str) -> bool:
    """Whether a request that the API server refused may succeed the next time.

    Creating an object conflicts when others change a quota's count at the same time. Callers handle other conflicts.
    """
    return refused.code in TEMPORARY or (refused.reason == "Conflict" and method == "POST")


def place(configuration: Any) -> str:
    """Where requests go, for the sentence of an error."""
    through = f" through the proxy {without_password(configuration.proxy)}" if configuration.proxy else ""
    return f"{configuration.host}{through}"


def request_of(client: Any, method: str, path: str, query: Mapping[str, str]) -> tuple[str, HTTPHeaderDict]:
    """The URL and the headers of a request, with its credentials."""
    values = [(name, value) for name, value in query.items() if value]
    _, url, headers, *_ = client.param_serialize(method, path, query_params=values, auth_settings=["BearerToken"])
    sent = HTTPHeaderDict()
    for name, value in headers.items():
        for each in value if isinstance(value, list) else [value]:
            sent.add(name, each)
    return url, sent


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
        LauncherError: 3, the API server's certificate cannot be verified.
    """
    url, headers = request_of(client, method, path, query)
    headers.extend({"Accept": "application/json", "Content-Type": content_type})
    # As UTF-8, which urllib3 does not offer.
    headers = HTTPHeaderDict([(name, value.encode().decode("latin-1")) for name, value in headers.items()])
    data = None if body is None else json.dumps(body)
    timeout = Timeout(connect=timeout_s[0], read=timeout_s[1])
    with connection_errors(client.configuration):
        response = client.rest_client.pool_manager.request(
            method, url, body=data, headers=headers, timeout=timeout, retries=False, preload_content=False
        )
        if response.status >= 400 or ("watch" not in query and "follow" not in query):
            response.read(cache_content=True)
    return response


def connect(client: Any, url: str, timeout_s: float) -> socket:
    """A separate connection to the API server, made like the client's connections for requests.

    Raises:
        HTTPError, OSError: there is none.
    """
    server, pool = parse_url(url), client.rest_client.pool_manager.connection_from_url(url)
    connection = pool._new_conn()  # noqa: SLF001 - urllib3 has no public way
    connection.timeout = timeout_s
    if pool.proxy:
        connection.set_tunnel(server.host, server.port, pool.proxy_headers, scheme=pool.proxy.scheme)
    connection.connect()
    made: socket = connection.sock
    return made


@contextmanager
def connection_errors(configuration: Any) -> Iterator[None]:
    """Raise the cause of a missing response: as an OSError, or as a LauncherError if retrying does not help."""
    try:
        yield
    except http_errors() as error:
        cause = error.original_error if isinstance(error, ProxyError) else error
        # Unlike with a server that goes away during the handshake.
        if isinstance(cause, SSLError) and isinstance(innermost(error), SSLCertVerificationError):
            reason = re.sub("^certificate verify failed: ", "", in_words(error))
            message = f"certificate verification failed for the API server at {place(configuration)}: {reason}"
            raise unreached(message, "check the certificates in the kubeconfig") from None
        kind = NoConnectionError if isinstance(cause, (NewConnectionError, ConnectTimeoutError)) else ConnectionError
        raise kind(in_words(error)) from None
