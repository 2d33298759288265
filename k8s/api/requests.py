"""Requests to the API server: sent, tried again while it is away, and read whole or line by line."""

from __future__ import annotations

import json
import random
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from k8s.api.errors import ApiError, LauncherError, Status, http_errors, innermost, plainly, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from k8s.api.objects import Object

PATIENCE_S = 30.0  # for how long a request is tried again
SILENT_S = 10.0  # and after how long that is told
TIMEOUT_S = (5.0, 30.0)  # to connect, and between two parts of an answer
LOGIN_S = 60.0  # for how long credentials are renewed that were accepted before
LOGIN_EVERY_S = 5.0
PASSING = {429, 500, 502, 503, 504}
AWAY = PASSING - {500}  # not its own word on the request, as 500 is where a webhook does not answer
T = TypeVar("T")


class Api:
    """One API server.

    Args:
        log_in: gives a kubernetes.client.ApiClient with credentials, anew each time.
        say: shows one line that tells of an API server that does not answer.

    Attributes:
        patience_s: for how long requests are tried again while the API server is away.
    """

    def __init__(self, log_in: Callable[[], Any], say: Callable[[str], None]) -> None:
        self._client, self._log_in, self._say = log_in(), log_in, say
        self._logging_in = threading.Lock()
        self._accepted = False  # whether the API server has accepted the credentials before
        self.patience_s = PATIENCE_S
        self._told = False  # whether it was said that the API server is away

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
        """One request and its whole answer, tried again while the API server is away or too busy."""
        began, wait_s = time.monotonic(), 0.2
        while True:
            try:
                response = self.logged_in(
                    lambda client: sent(client, method, path, query or {}, body, content_type, TIMEOUT_S)
                )
                text: bytes = response.data
                if response.status < 400:
                    self._told = False
                    return self._read(text)
                refused = refusal(response.status, text, f"{method.lower()} {path}")
                if not passes(refused, method):
                    raise refused
                why = refused.message
            except OSError as error:
                refused, why = None, plainly(error)
            if lost and not (refused and refused.code in (409, 429)):
                lost.set()
            passed = time.monotonic() - began
            if passed > self.patience_s:
                if refused and refused.code not in AWAY:
                    raise refused
                host = self._client.configuration.host
                message = f"the API server at {host} does not answer: {why}"
                hint = "see whether the cluster is up, and the server's address in the kubeconfig"
                raise LauncherError(Status.UNREACHED, message, hint) from None
            if passed > SILENT_S and not self._told:
                self._told = True
                self._say(f"the API server has not answered for {passed:.0f} s ({why}); still trying")
            time.sleep(wait_s * random.uniform(0.75, 1.25))  # noqa: S311 - no secret
            wait_s = min(2 * wait_s, 5.0)

    def stream(
        self, path: str, query: Mapping[str, str], silence_s: float | None, *, torn: bool = False
    ) -> Generator[str]:
        """The lines of an answer, as they come; the last one without its end only if torn ones are wanted."""
        times_s = (TIMEOUT_S[0], silence_s)
        response = self.logged_in(lambda client: sent(client, "GET", path, query, None, "application/json", times_s))
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
            raise ConnectionError(plainly(error)) from None
        finally:
            response.close()

    def logged_in(self, ask: Callable[[Any], T]) -> T:
        """What ask(client) gives, with new credentials where the API server does not accept those that there are.

        Where it has accepted some before, they may just be rotated, or what checks them be away: they get LOGIN_S.

        Raises:
            LauncherError: 3, they are not accepted, or there are none to be had.
        """
        began, again = time.monotonic(), False
        problem = LauncherError(
            Status.UNREACHED,
            "the API server does not accept the credentials (401 Unauthorized)",
            "log in to the cluster again",
        )
        while True:
            client = self._client
            try:
                found = ask(client)
            except ApiError as error:
                if error.code != 401:
                    raise
            else:
                self._accepted = True
                return found
            if again:
                if not self._accepted or time.monotonic() - began > LOGIN_S:
                    raise problem
                time.sleep(LOGIN_EVERY_S)
            again = True
            with self._logging_in:
                if client is self._client:  # and no other thread has logged in meanwhile
                    try:
                        self._client = self._log_in()
                    except LauncherError as error:
                        problem = error

    def stranger(self) -> LauncherError:
        """The error of an answer that no API server gives."""
        message = f"what answers at {self._client.configuration.host} is no API server"
        return LauncherError(Status.UNREACHED, message, "see the server's address in the kubeconfig")

    def _read(self, text: bytes) -> Object:
        try:
            found: Object = json.loads(text or b"{}")
        except ValueError:  # as where a proxy shows its own page
            raise self.stranger() from None
        return found


def passes(refused: ApiError, method: str) -> bool:
    """Whether what the API server refuses may go well the next time.

    A conflict of a creation is where others change a quota's count at once; of a change or a deletion it is theirs.
    """
    return refused.code in PASSING or (refused.reason == "Conflict" and method == "POST")


def request_of(client: Any, method: str, path: str, query: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The URL and the headers of a request, with the credentials in them."""
    values = [(name, value) for name, value in query.items() if value]
    made = client.param_serialize(method, path, query_params=values, auth_settings=["BearerToken"])
    return made[1], made[2]


def sent(
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
        OSError: there was no answer.
        ApiError: 401, the credentials are not accepted.
        LauncherError: the API server is not to be trusted.
    """
    from ssl import SSLCertVerificationError  # noqa: PLC0415

    from urllib3 import Timeout  # noqa: PLC0415
    from urllib3.exceptions import SSLError  # noqa: PLC0415

    url, headers = request_of(client, method, path, query)
    headers |= {"Accept": "application/json", "Content-Type": content_type}
    data = None if body is None else json.dumps(body)
    try:
        response = client.rest_client.pool_manager.request(
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
    except http_errors() as error:
        # No trying again mends these; a server that goes away in the handshake is another matter.
        if isinstance(error, SSLError) and isinstance(innermost(error), SSLCertVerificationError):
            message = f"the API server at {client.configuration.host} is not to be trusted: {plainly(error)}"
            raise LauncherError(Status.UNREACHED, message, "see the certificates in the kubeconfig") from None
        raise ConnectionError(plainly(error)) from None
    if response.status == 401:
        raise refusal(response.status, response.data, f"{method.lower()} {path}")
    return response
