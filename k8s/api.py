"""Requests to the API server: sent, tried again while it is away, and read whole or line by line."""

from __future__ import annotations

import json
import random
import time
from typing import TYPE_CHECKING, Any

from k8s.errors import LauncherError, Status
from k8s.failures import http_errors, innermost, plainly, refusal

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Generator, Mapping

    from k8s.contract import Object

PATIENCE_S = 30.0  # for how long a request is tried again
SILENT_S = 10.0  # and after how long that is told
TIMEOUT_S = (5.0, 30.0)  # to connect, and between two parts of an answer
PASSING = {429, 500, 502, 503, 504}
AWAY = PASSING - {500}  # not its own word on the request, as 500 is where a webhook does not answer


class Api:
    """One API server.

    Args:
        client: a kubernetes.client.ApiClient.
        say: shows one line that tells of an API server that does not answer.

    Attributes:
        patience_s: for how long requests are tried again while the API server is away.
    """

    def __init__(self, client: Any, say: Callable[[str], None]) -> None:
        self.client, self._say = client, say
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
                host = self.client.configuration.host
                message = f"the API server at {host} does not answer: {why}"
                raise LauncherError(Status.UNREACHED, message, "see whether the cluster is up") from None
            if passed > SILENT_S and not self._told:
                self._told = True
                self._say(f"the API server has not answered for {passed:.0f} s ({why}); still trying")
            time.sleep(wait_s * random.uniform(0.75, 1.25))  # noqa: S311 - no secret
            wait_s = min(2 * wait_s, 5.0)

    def stream(
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
        except http_errors() as error:
            raise ConnectionError(plainly(error)) from None
        finally:
            response.close()

    def request_of(self, method: str, path: str, query: Mapping[str, str]) -> Any:
        """A request as the client makes it, with the credentials: method, URL, headers, and two that are empty."""
        values = [(name, value) for name, value in query.items() if value]
        return self.client.param_serialize(method, path, query_params=values, auth_settings=["BearerToken"])

    def stranger(self) -> LauncherError:
        """The error of an answer that no API server gives."""
        message = f"what answers at {self.client.configuration.host} is no API server"
        return LauncherError(Status.UNREACHED, message, "see the server's address in the kubeconfig")

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

        _, url, headers, _, _ = self.request_of(method, path, query)
        headers |= {"Accept": "application/json", "Content-Type": content_type}
        data = None if body is None else json.dumps(body)
        try:
            response = self.client.rest_client.pool_manager.request(
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
                message = f"the API server at {self.client.configuration.host} is not to be trusted: {plainly(error)}"
                raise LauncherError(Status.UNREACHED, message, "see the certificates in the kubeconfig") from None
            raise ConnectionError(plainly(error)) from None
        if response.status == 401:
            message = "the API server does not accept the credentials (401 Unauthorized)"
            raise LauncherError(Status.UNREACHED, message, "log in to the cluster again")
        return response

    def _read(self, text: bytes) -> Object:
        try:
            found: Object = json.loads(text or b"{}")
        except ValueError:  # as where a proxy shows its own page
            raise self.stranger() from None
        return found
