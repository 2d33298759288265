"""A running pod that mounts a claim, in which the launcher runs commands."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from job.errors import Exit
from k8s.api.errors import ApiError, LauncherError, Status, failed, unreached
from k8s.state.names import OUTPUT
from k8s.volume.template import CONTAINER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from k8s.api.cluster import Cluster

OUTPUT_LIMIT = 64 << 20  # bytes; the volume decides how much a command prints
RETRY_S = 1.0
ATTEMPTS = 10  # after so many attempts that delivered data and broke, the patience counts from the start


class VolumePod:
    """The pod while it runs.

    Args:
        cluster: the namespace that it is in.
        name: of the pod.
        claim: the name of the claim that it mounts at /output.

    Attributes:
        flags: the launcher's flags that select the namespace, for the commands that messages suggest.
    """

    def __init__(self, cluster: Cluster, name: str, claim: str) -> None:
        self.name, self.claim, self.flags = name, claim, cluster.flags
        self._cluster = cluster

    def output(
        self, command: Sequence[str], stdin: Callable[[], Iterable[bytes]] | None = None
    ) -> tuple[int, bytes, str]:
        """Run a command, and run it again if the connection breaks.

        Args:
            command: safe to run twice.
            stdin: returns the command's input, once for each attempt; None if it reads none.

        Returns:
            Its exit code, standard output and standard error.

        Raises:
            LauncherError: the pod is gone, or the connection keeps breaking.
        """
        output = bytearray()

        def write(data: bytes) -> None:
            if len(output) + len(data) > OUTPUT_LIMIT:
                raise failed(f"the output of {command[0]} on the claim {self.claim} is too long", "check the volume")
            output.extend(data)

        code, errors = self.run(command, write, output.clear, stdin)
        return code, bytes(output), errors

    def run(
        self,
        command: Sequence[str],
        write: Callable[[bytes], Any],
        restart: Callable[[], Any],
        stdin: Callable[[], Iterable[bytes]] | None = None,
    ) -> tuple[int, str]:
        """Run a command, and run it again if the connection breaks.

        Args:
            command: safe to run twice.
            write: receives its output.
            restart: called before each attempt, to drop what an earlier one wrote.
            stdin: returns the command's input, once for each attempt; None if it reads none.

        Returns:
            Its exit code and standard error.

        Raises:
            LauncherError: the pod is gone, or the connection keeps breaking.
        """
        started = last_news = time.monotonic()
        delivered = 0  # how many attempts delivered data before they broke

        def receive(data: bytes) -> None:
            nonlocal last_news
            last_news = time.monotonic()
            write(data)

        def send(content: Iterable[bytes]) -> Iterator[bytes]:
            nonlocal last_news
            for data in content:
                yield data
                last_news = time.monotonic()

        while True:
            restart()
            attempt_at = time.monotonic()
            try:
                return self.run_once(command, receive, send(stdin()) if stdin else ())
            except ConnectionError as error:
                delivered += last_news > attempt_at
                # Every attempt starts again from the first byte, so that a long transfer might never end.
                self.wait_to_retry(last_news if delivered < ATTEMPTS else started, error)

    def run_once(
        self, command: Sequence[str], write: Callable[[bytes], Any], stdin: Iterable[bytes] = ()
    ) -> tuple[int, str]:
        """Run a command; returns its exit code and standard error.

        Raises:
            ConnectionError: the connection broke.
            LauncherError: the pod is gone.
        """
        try:
            code, errors = self._cluster.run_in(self.name, CONTAINER, command, write, stdin)
        except ApiError as error:
            if error.code != 404:
                raise
            message = f"the pod {self.name} was deleted by someone else"
            raise failed(message, "run the same command again") from None
        return code, errors.strip()

    def wait_to_retry(self, since: float, error: OSError) -> None:
        """Wait before another attempt.

        Args:
            since: when the connection last delivered data, in seconds of time.monotonic().
            error: that of the last attempt.

        Raises:
            LauncherError: the connection has delivered nothing for too long.
        """
        if time.monotonic() - since > self._cluster.patience_s:
            message = f"the connection to pod {self.name} keeps breaking: {error}"
            raise unreached(message, "run the same command again")
        time.sleep(RETRY_S)

    def run_job(self, *words: str, show: Callable[[str], object] | None = None) -> str:
        """What `python -m job WORDS` prints.

        Args:
            words: the command and its flags.
            show: receives what it prints, also if it fails.

        Raises:
            LauncherError: it failed; with the job's own sentence, and 64 for a usage error, else 1.
        """
        code, output, errors = self.output(["python", "-m", "job", *words])
        text = output.decode(errors="replace")
        if show:
            show(text)
        if code:
            errors = errors or f"`job {words[0]}` ended with code {code} and printed no error"
            raise job_failure(code, errors, self.claim)
        return text

    def latest(self) -> str:
        """Where the link `latest` leads, as models/NAME; empty if there is no such link."""
        return self.output(["readlink", f"{OUTPUT}/latest"])[1].decode(errors="replace").strip()


def job_failure(code: int, errors: str, claim: str) -> LauncherError:
    """The error of a command of the job: its last line, with a remedy for someone who uses the launcher.

    Args:
        code: its exit code.
        errors: what it wrote to standard error.
        claim: the claim that it used.
    """
    *traceback, last = errors.splitlines()
    sentence, remedy = last.removeprefix("error: "), ""
    if code == Exit.DATA_MISSING:
        remedy = "submit a run first, or choose another claim with --claim"
    elif code == Exit.OUTPUT and "--output" in sentence:
        remedy = f"free space on the claim {claim}, or make it writable"
    elif code == Exit.TRY_AGAIN:
        remedy = "try again"
    if remedy:
        sentence = f"{sentence.rpartition('; ')[0] or sentence}; {remedy}"
    if code == Exit.BUG:
        sentence = "\n".join(["the job failed in the volume pod", *traceback, sentence])
    return LauncherError(Exit.USAGE if code == Exit.USAGE else Status.FAILED, sentence)
