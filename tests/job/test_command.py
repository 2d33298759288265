"""Bad input to the real command: an exit code and one sentence, and an unchanged output folder."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from job import __main__ as entry
from job import __version__, telemetry
from job.errors import MEANINGS, Exit
from job.local import workers as local
from job.system import termination
from tests.job import processes
from tests.job.processes import contents
from tests.job.test_cluster import LEAVE, REMEDY, not_set

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.job.conftest import Trained

LIMIT_S = 30.0
ROOM = "let fewer processes run here, or raise their limit: `ulimit -u`, or the node's limit of processes per pod"
NAME_FORM = "--name must be lower-case letters, digits and hyphens, with a letter or digit at both ends"
ONE = '{"cluster": {"worker": ["127.0.0.1:1"]}, "task": {"type": "worker", "index": 0}}'


@pytest.fixture(params=["absent", "used"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An output folder that does not exist, or one that holds a model."""
    folder = tmp_path / "output"
    if request.param == "used":
        (folder / "models" / "older").mkdir(parents=True)
        (folder / "models" / "older" / "report.json").write_text("{}")
        (folder / "latest").symlink_to("models/older")
    return folder


def check(
    code: Exit,
    sentence: str,
    output: Path,
    *arguments: object,
    env: Mapping[str, str] | None = None,
    beside: Path | None = None,
) -> None:
    """The command prints exactly this sentence, exits with this code in time, and leaves all but logs unchanged."""
    before = contents(beside or output.parent, logs=False)
    ended = processes.run("--output", output, *arguments, env=env)
    assert (ended.code, ended.stderr) == (code, f"error: {sentence}\n")
    assert ended.seconds < LIMIT_S
    assert contents(beside or output.parent, logs=False) == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--unknown=1"], "unrecognized arguments: --unknown=1; see `python -m job --help`"),
        (["--epochs=x"], "argument --epochs: invalid int value: 'x'; see `python -m job train --help`"),
        (["--epochs=0"], "--epochs must be at least 1, not 0"),
        (["--name=.."], f"{NAME_FORM}, not '..'"),
    ],
)
def test_a_wrong_flag_is_refused(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    """64, and the output folder is not created."""
    check(Exit.USAGE, sentence, tmp_path / "output", *arguments)


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"TF_CONFIG": ""}, f"TF_CONFIG is empty{REMEDY}"),
        ({"TF_CONFIG": ONE}, not_set("RUN", "TF_CONFIG")),
        (
            {"PEERS": "", "RUN": "r", "WORKERS": "1", "JOB_COMPLETION_INDEX": "0"},
            "PEERS must be JSON [[host:port, host:port], ...], not ''",
        ),
        ({"JOB_COMPLETION_INDEX": "0"}, not_set("RUN", "JOB_COMPLETION_INDEX")),
    ],
)
def test_a_wrong_identity_is_refused(variables: dict[str, str], sentence: str, tmp_path: Path) -> None:
    """64, and never a run of one worker."""
    check(Exit.USAGE, sentence, tmp_path / "output", env=variables)


@pytest.mark.parametrize("flag", ["--workers=1", "--name=other"])
def test_flags_that_the_environment_sets_are_refused_in_a_cluster(flag: str, tmp_path: Path) -> None:
    """The workers and the run's name, even with the value from the environment. The sentence names the variable."""
    message = "cannot be used in a cluster, and TF_CONFIG makes this process a worker"
    sentence = f"{flag.partition('=')[0]} {message}; leave it out; {LEAVE.format('TF_CONFIG')}"
    check(Exit.USAGE, sentence, tmp_path / "output", flag, env={"TF_CONFIG": ONE, "RUN": "r"})


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder that cannot be written: by a read-only mount for root, else by its permissions."""
    if os.geteuid():
        folder.chmod(0o555)
        yield
        folder.chmod(0o755)
        return
    mount = subprocess.run(["mount", "--bind", folder, folder], check=False, capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"root may not mount here, and permissions do not stop root: {mount.stderr.strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_read_only_output_folder_is_refused(prepared: Path, tmp_path: Path) -> None:
    """73, for the folder itself and for a new one in it. Two workers print one sentence."""
    folder = tmp_path / "output"
    folder.mkdir()
    with read_only(folder):
        for output in (folder, folder / "new" / "deep"):
            before = contents(tmp_path)
            ended = processes.run("--output", output, "--data", prepared, "--workers=2")
            assert ended.code == Exit.OUTPUT
            (line,) = ended.stderr.splitlines()
            assert line.startswith(f"error: worker 0: the output folder cannot be written at {folder}/.probe.")
            assert line.endswith("; free space, or choose a writable folder with --output")
            assert ended.seconds < LIMIT_S
            assert contents(tmp_path) == before


def test_an_output_folder_below_a_file_is_refused(prepared: Path, tmp_path: Path) -> None:
    """73, and the file is unchanged."""
    file = tmp_path / "file"
    file.write_text("kept")
    before = contents(tmp_path)
    ended = processes.run("--output", file / "output", "--data", prepared)
    assert ended.code == Exit.OUTPUT
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"error: the output folder cannot be written at {file}/.probe.")
    assert contents(tmp_path) == before


def test_a_missing_dataset_is_reported_once(output: Path, tmp_path: Path) -> None:
    """66 and one sentence, although both workers miss it; no output folder is created."""
    data = tmp_path / "nowhere"
    before = contents(tmp_path)
    ended = processes.run("--output", output, "--data", data, "--workers=2")
    (line,) = ended.stderr.splitlines()
    sentence = f"there is no dataset mnist in {data}; run `python -m job data --data {data} --dataset mnist`"
    assert (ended.code, line.replace("worker 1", "worker 0")) == (Exit.DATA_MISSING, f"error: worker 0: {sentence}")
    assert ended.seconds < LIMIT_S
    assert contents(tmp_path) == before


def test_a_damaged_dataset_is_refused(prepared: Path, tmp_path: Path) -> None:
    """65 for one wrong byte, before the output folder is created."""
    data = tmp_path / "data"
    shutil.copytree(prepared, data)
    path = data / "mnist" / "decoded" / "train-images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    before = contents(tmp_path)
    ended = processes.run("--output", tmp_path / "output", "--data", data)
    (line,) = ended.stderr.splitlines()
    assert (ended.code, line.startswith("error: "), str(data) in line) == (Exit.DATA_DAMAGED, True, True)
    assert ended.seconds < LIMIT_S
    assert contents(tmp_path) == before


def test_a_missing_gpu_is_refused(prepared: Path, output: Path) -> None:
    """64, and never a silent run on the CPU."""
    if Path("/dev/nvidia0").exists():
        pytest.skip("there is a GPU here")
    hint = "use --device cpu, or give each worker a GPU, a driver and an image for GPUs"
    sentence = f"--device gpu: TensorFlow finds no GPU here; {hint}"
    check(Exit.USAGE, sentence, output, "--data", prepared, "--device=gpu")


def test_a_published_run_ends_with_its_verdict(trained: Trained) -> None:
    """The summary and the exit code are those of the publication, whatever the settings; only the log grows."""
    before = contents(trained.output, logs=False)
    ended = processes.run(
        "--data", trained.data / "nowhere", "--output", trained.output, "--name=good", "--epochs=7", "--workers=2"
    )
    assert (ended.code, ended.stderr) == (Exit.OK, "")
    *lines, summary = ended.stdout.splitlines()
    (published,) = [record for line in lines if (record := telemetry.parse(line)) and record.rank == 0]
    assert (published.phase, published.code, published.reason, published.message) == (
        "published",
        0,
        "promoted",
        "published before: there was no model before",
    )
    report = json.loads((trained.output / "models" / "good" / "report.json").read_text())
    assert published.accuracy == pytest.approx(report["test"]["accuracy"], rel=1e-5)
    assert summary.startswith("run=good phase=done ")
    assert contents(trained.output, logs=False) == before


def test_a_published_run_is_not_taken_for_another_training(trained: Trained) -> None:
    """With other flags than those that it was trained with, the name is refused, and nothing changes."""
    before = contents(trained.output, logs=False)
    ended = processes.run("--data", trained.data, "--output", trained.output, "--name=good", "--epochs=7")
    assert ended.code == Exit.SETTINGS
    assert ended.stderr.startswith("error: run 'good' has other settings: --epochs was ")
    assert ended.stderr.endswith(" and is now 7; use the original flags, or another --name\n")
    assert contents(trained.output, logs=False) == before


@pytest.mark.parametrize("content", ["", "{}", None])
def test_a_published_run_whose_report_is_damaged(content: str | None, trained: Trained, tmp_path: Path) -> None:
    """The exit code stands, and one sentence names the file."""
    output = tmp_path / "output"
    shutil.copytree(trained.output, output, symlinks=True)
    report = output / "models" / "good" / "report.json"
    report.unlink()
    if content is not None:
        report.write_text(content)
    ended = processes.run("--data", trained.data / "nowhere", "--output", output, "--name=good")
    sentence = f"error: {report} or {output / 'runs' / 'good' / 'verdict.json'} is damaged or missing\n"
    assert (ended.code, ended.stderr) == (Exit.OK, sentence)


def test_a_rejected_run_ends_with_its_rejection(trained: Trained, tmp_path: Path) -> None:
    """69 and the reason in one sentence; `latest` does not move."""
    output = tmp_path / "output"
    shutil.copytree(trained.output, output, symlinks=True)
    (output / "latest").unlink()
    verdict = {"verdict": "rejected", "code": 69, "reason": "it was bad", "compared_with": None}
    (output / "runs" / "good" / "verdict.json").write_text(json.dumps(verdict))
    sentence = "good is published, but rejected: it was bad; `latest` did not move"
    check(Exit.REJECTED, sentence, output, "--data", trained.data, "--name=good", "--epochs=2")


@pytest.mark.parametrize(
    ("raised", "code", "sentence"),
    [
        (KeyboardInterrupt(), Exit.INTERRUPTED, "error: interrupted by Ctrl-C"),
        (ValueError("odd"), Exit.BUG, "error: ValueError: odd; please report it with the lines above"),
        (
            OSError(errno.EIO, "Input/output error", "/a/module.py"),
            Exit.TRY_AGAIN,
            "error: the system failed at /a/module.py: Input/output error; start the run again",
        ),
        (
            RuntimeError("can't start new thread"),
            Exit.TRY_AGAIN,
            f"error: a thread cannot be started: can't start new thread; {ROOM}",
        ),
        (
            OSError(errno.ENOMEM, "Cannot allocate memory"),
            Exit.OUT_OF_MEMORY,
            (
                "error: memory ran out: Cannot allocate memory; "
                "give it more memory; or use a smaller --batch-size, and another --name"
            ),
        ),
    ],
)
def test_every_exception_ends_with_a_code_and_a_sentence(
    raised: BaseException,
    code: Exit,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A bug prints a traceback, and then a sentence; Ctrl-C before the run starts and the system's errors do not."""

    def fail(_: object) -> int:
        raise raised

    monkeypatch.setattr(local, "run", fail)
    monkeypatch.setattr(sys, "argv", ["job", "train"])
    for name in processes.IDENTITY:
        monkeypatch.delenv(name, raising=False)
    assert entry.main() == code
    *before, last = capsys.readouterr().err.splitlines()
    assert last == sentence
    assert before[:1] == (["Traceback (most recent call last):"] if code == Exit.BUG else [])


def test_a_worker_of_an_operator_that_may_be_started_again_ends_with_143(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its termination message still has the code 75."""
    monkeypatch.setattr(termination, "PATH", tmp_path / "termination-log")
    termination.PATH.touch()
    two = {"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}, "task": {"type": "worker", "index": 1}}
    for name, value in {"RUN": "r", "TF_CONFIG": json.dumps(two)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["job", "train", f"--data={prepared}", "--join-timeout=1"])
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert entry.main() == 128 + signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)
    message = json.loads(termination.PATH.read_text())
    assert (message["code"], message["reason"]) == (Exit.TRY_AGAIN, "peers-missing")


@pytest.mark.parametrize(
    "command", ["data", "compare", "compare --json", "prune --keep=1 --dry-run --output", "promote good --output"]
)
@pytest.mark.parametrize("ending", ["full", "closed"])
def test_standard_output_that_fails_is_told(ending: str, command: str, trained: Trained) -> None:
    """The sentence names standard output, and neither the data folder nor a bug."""
    name, *flags = command.split()
    arguments = ["--data", str(trained.data)] if name == "data" else [*flags, str(trained.output)]
    reading, closed = os.pipe()
    os.close(reading)
    with open("/dev/full" if ending == "full" else closed, "w") as target:  # noqa: PTH123 - closed is no path
        ended = subprocess.run(
            [sys.executable, "-m", "job", name, *arguments],
            check=False,
            stdout=target,
            stderr=subprocess.PIPE,
            text=True,
            cwd=processes.ROOT,
            env=processes.environment({"PYTHONUNBUFFERED": ""}),
        )
    if ending == "full":
        sentence = "cannot be written: No space left on device; write it to a place with free space"
        expected: tuple[int, str] = Exit.OUTPUT, f"error: standard output {sentence}\n"
    elif command == "compare":  # rich ends quietly
        expected = 1, ""
    else:
        expected = Exit.TRY_AGAIN, "error: standard output could not be written: Broken pipe; try again\n"
    assert (ended.returncode, ended.stderr) == expected


def test_closed_streams_are_no_fault(trained: Trained) -> None:
    """A command without standard output and standard error ends as it would with them."""
    flags = [f"--data={trained.data / 'nowhere'}", f"--output={trained.output}", "--name=good"]
    command = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", sys.executable, "-m", "job", "train", *flags]
    assert subprocess.run(command, check=False, cwd=processes.ROOT, env=processes.environment({})).returncode == 0


def test_help_lists_the_exit_codes() -> None:
    """`--help` exits with 0 and lists every code with its meaning."""
    ended = processes.run("--help", env={"COLUMNS": "10000"})
    assert (ended.code, ended.stderr) == (0, "")
    assert list(MEANINGS) == list(Exit)
    assert all(f"{int(code)} {meaning}" in ended.stdout for code, meaning in MEANINGS.items())
    assert Exit.INTERRUPTED == 128 + signal.SIGINT


def test_version() -> None:
    """`--version` prints the package's version and exits with 0."""
    ended = subprocess.run(
        [sys.executable, "-m", "job", "--version"], cwd=processes.ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout == f"mnist-job {__version__}\n"
