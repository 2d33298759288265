"""Commands in the volume pod travel in a URL, which servers and proxies limit, often to 8 KiB."""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlencode

from job.dataset.fingerprint import FINGERPRINT
from k8s.commands.prune import carry_out, plan_on_volume
from k8s.state.names import OUTPUT
from k8s.volume.download import download
from k8s.volume.upload import upload
from tests.k8s.fakes import FakeCluster, volume_job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from k8s.volume.pod import VolumePod

LIMIT = 8000  # characters: what is left of 8 KiB beside the path of the request
MANY = 3000


class Pod:
    """A volume pod without a volume: it answers what these commands expect.

    Attributes:
        longest: the characters of the longest command in a URL.
    """

    name, claim, flags = "v", "output", "-n here"

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.longest = files, 0

    def given(self) -> VolumePod:
        """This, as the commands take it."""
        return cast("VolumePod", self)

    def output(
        self, command: Sequence[str], stdin: Callable[[], Iterable[bytes]] | None = None
    ) -> tuple[int, bytes, str]:
        """Run a command."""
        content = bytearray()
        code, errors = self.run_once(command, content.extend, (stdin() if stdin else ()))
        return code, bytes(content), errors

    def run_once(
        self, command: Sequence[str], write: Callable[[bytes], Any], stdin: Iterable[bytes] = ()
    ) -> tuple[int, str]:
        """Run a command: find, cat or tail, or one without output."""
        b"".join(stdin)
        self.longest = max(self.longest, len(urlencode([("command", word) for word in command])))
        if command[0] == "find":
            write("".join(f"{len(content)} {path}\0" for path, content in self.files.items()).encode())
        elif command[0] == "cat":
            sums = [f"{hashlib.sha256(content).hexdigest()}  {path}\n" for path, content in self.files.items()]
            write("".join(sums).encode())
        elif command[0] == "sh":
            self.files[command[-2]] = b""
        elif command[0] == "tail":
            write(self.files[command[-1].removeprefix(f"{OUTPUT}/models/digits/")])
        return (1 if command[0] == "test" and ".incoming-" not in command[-1] else 0), ""

    def run_job(self, *words: str) -> str:
        """Plan to prune the runs that are named, or prune them."""
        self.run_once(["python", "-m", "job", *words], print)
        names = [word for word in words[1:] if not word.startswith("-")]
        runs = [{"name": name, "started": "2026-11-01T00:00:00Z", "published": False} for name in names]
        plan = {"before": "2026-12-01T00:00:00Z", "prune": runs, "kept": {}, "without_model": [*self.files]}
        return json.dumps(plan | {"pruned": names if "--yes" in words else []})


@contextmanager
def silent(_: int) -> Iterator[Callable[[int], None]]:
    """Show no progress."""
    yield lambda _: None


def test_many_runs_are_pruned_in_batches() -> None:
    """The names of all runs would not fit into one URL."""
    names = [f"{'a' * 55}-{number:06}" for number in range(MANY)]
    jobs = {name: volume_job(name, "Failed") for name in names}
    pod, words = Pod(dict.fromkeys(names, b"")), ["--output=/output", "--keep=1", "--json"]
    plan = plan_on_volume(pod.given(), words, jobs)
    assert len(plan["prune"]) == MANY
    pruned, _ = carry_out(FakeCluster(*jobs.values()).given(), pod.given(), {**plan, "jobs": []}, words)
    assert sorted(pruned) == names
    assert pod.longest < LIMIT


def test_a_large_model_is_fetched(tmp_path: Path) -> None:
    """Its files are requested one by one."""
    files = {f"saved_model/1/{'a' * 100}/{number}": str(number).encode() for number in range(MANY)}
    pod = Pod(files)
    assert download(pod.given(), "digits", tmp_path, silent)["fetched"] == MANY
    assert {path: (tmp_path / path).read_bytes() for path in files} == files
    assert pod.longest < LIMIT


def test_a_large_dataset_is_copied(tmp_path: Path) -> None:
    """The number of its files does not make any command too long."""
    tmp_path.joinpath(FINGERPRINT).write_text("{}")
    for number in range(MANY):
        tmp_path.joinpath(f"{'a' * 100}{number}").write_bytes(b"a")
    pod = Pod({})
    assert upload(pod.given(), tmp_path, "mnist", silent)["copied"] == MANY + 1
    assert pod.longest < LIMIT
