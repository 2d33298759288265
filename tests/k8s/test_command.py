"""The launcher's command line: help, wrong flags, imports, and errors that become sentences."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from job import __version__
from job.__main__ import COMMANDS as JOB_COMMANDS
from job.config import parse, usage_error
from k8s.__main__ import COMMANDS, main, module, parser
from k8s.api.errors import LauncherError, Status
from k8s.commands import status

ROOT = Path(__file__).parents[2]
HEAVY = ["kubernetes", "tensorflow", "yaml", "numpy", "urllib3"]


def ended(code: str | int | None) -> int:
    """The exit status in a SystemExit."""
    assert isinstance(code, int)
    return code


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The help of every command has a usage line, the flags of every command, and the exit statuses."""
    with pytest.raises(SystemExit) as caught:
        main([*([command] if command else []), "--help"])
    assert ended(caught.value.code) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "exit statuses: 0; 1 the run failed" in text
    if command:
        assert f"usage: mnist-job {command} " in text
        for flag in ("--namespace NAMESPACE", "--context CONTEXT", "--kubeconfig FILE", "--output FORMAT"):
            assert flag in text
    else:
        assert all(f" {name} " in text for name in COMMANDS)


def test_help_imports_little() -> None:
    """Slow imports for clusters, YAML and training are left out for --help and wrong flags."""
    code = f"""
import json, sys
from k8s.__main__ import main
statuses = []
for words in (["submit", "--help"], ["status", "--help"]):
    try:
        main(words)
    except SystemExit as end:
        statuses.append(end.code)
statuses.append(main(["submit", "--", "--epochs=0"]))
print(json.dumps([statuses, [name for name in {HEAVY} if name in sys.modules]]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [[0, 0, 64], []]
    assert done.stderr == "error: --epochs must be at least 1, not 0\n"


def test_what_is_imported_of_the_job() -> None:
    """The launcher shares five modules with the job; a command imports more of it only when it is named."""
    code = "import sys, k8s.__main__; print(*sorted(name for name in sys.modules if name.startswith('job.')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"job.config", "job.errors", "job.streams", "job.telemetry", "job.cluster"}


@pytest.mark.parametrize("command", COMMANDS)
def test_examples(command: str) -> None:
    """The examples of a command's help are command lines that its parser accepts."""
    assert len(module(command).EXAMPLES) >= 2
    for example in module(command).EXAMPLES:
        words = shlex.split(example, comments=True)
        if words[0] == "eval":
            words = shlex.split(words[1].strip("$()"))
        assert words[:2] == ["mnist-job", command]
        own = words[1 : words.index("--")] if "--" in words else words[1:]
        assert parser([command]).parse_args(own).command == command
        parse(words[words.index("--") + 1 :] if "--" in words else [])


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints the launcher's version."""
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert (ended(caught.value.code), capsys.readouterr().out) == (0, f"mnist-job {__version__}\n")


def test_defaults_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable gives the default of a flag; the flag wins, and an empty variable counts as unset."""
    for name, value in (("NAMESPACE", "n"), ("CONTEXT", "c"), ("IMAGE", "i:1"), ("CLAIM", "o"), ("QUEUE", "")):
        monkeypatch.setenv(f"MNIST_JOB_{name}", value)
    found = parser(["submit"]).parse_args(["submit", "--claim=mine"])
    assert (found.namespace, found.context, found.image, found.claim, found.queue) == ("n", "c", "i:1", "mine", None)


@pytest.mark.parametrize("package", ["job", "k8s"])
def test_without_docstrings(package: str) -> None:
    """With `python -OO`, which removes docstrings, every command has the same help as without."""
    commands: Any = JOB_COMMANDS if package == "job" else COMMANDS
    module = "job.__main__" if package == "job" else "k8s.__main__"
    code = f"""
import contextlib, sys
from {module} import main
for words in {[[], *([name] for name in commands)]}:
    sys.argv = ["command", *words, "--help"]
    with contextlib.suppress(SystemExit):
        main()
"""
    helps = [
        subprocess.run([sys.executable, *flags, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        for flags in ([], ["-OO"])
    ]
    assert helps[0].stdout.count("usage: ") == len(commands) + 1
    assert (helps[1].stdout, helps[1].stderr) == (helps[0].stdout, helps[0].stderr)


def test_a_submission_without_docstrings() -> None:
    """With `python -OO`, a submission is the same as without."""
    words = ["-m", "k8s", "submit", "--dry-run=client", "--name=a", "--image=a:1", "--workers=2", "--", "--epochs=1"]
    made = [
        subprocess.run([sys.executable, *flags, *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for flags in ([], ["-OO"])
    ]
    assert "kind: Job" in made[0]
    assert made[1] == made[0]


# A launcher whose command prints lines, which it flushes one by one or not.
PRINTS = """
import sys
from k8s import __main__ as entry
class Command:
    EXAMPLES = ()
    add_flags = staticmethod(lambda parser: None)
    @staticmethod
    def run(arguments, connect):
        for _ in range(100):
            print("line \u2713", flush="flush" in sys.argv)
        return 0
entry.module = lambda name: Command
sys.exit(entry.main(["status"]))
"""


@pytest.mark.parametrize("flush", ["flush", ""])
@pytest.mark.parametrize(
    ("target", "status", "errors"),
    [("| true", 0, ""), (">&-", 0, ""), (">/dev/full", 1, "error: No space left on device\n"), (">/dev/null", 0, "")],
)
def test_standard_output_that_fails(flush: str, target: str, status: int, errors: str) -> None:
    """A reader that leaves, as `head` does, is no error; nor is a closed stream, or one that knows ASCII only."""
    shell = f'set -o pipefail; {{ sleep 0.2; "$@"; }} {target}'
    command = ["bash", "-c", shell, "bash", sys.executable, "-c", PRINTS, flush]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUNBUFFERED": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, errors)


def test_a_run_imports_no_tensorflow(tmp_path: Path) -> None:
    """A command that contacts a cluster imports no TensorFlow and no NumPy."""
    code = """
import sys
from k8s.__main__ import main
status = main(["status"])
assert "kubernetes" in sys.modules
assert not any(name.startswith(("tensorflow", "keras", "numpy")) for name in sys.modules)
sys.exit(status)
"""
    environ = {"PATH": "/usr/bin:/bin", "KUBECONFIG": str(tmp_path / "none"), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    sentence = "error: no file of $KUBECONFIG ("
    assert (done.returncode, done.stderr[: len(sentence)]) == (3, sentence)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["submit", "--worker=2"], "unrecognized arguments: --worker=2; see `mnist-job submit --help`"),
        (["status", ""], "NAME is empty; `mnist-job status` lists the names"),
        (["cancel", ""], "NAME is empty; `mnist-job status` lists the names"),
        (["submit", "--workers=0"], "--workers must be from 1 to 1000, not 0"),
        (
            ["submit", "--workers=two"],
            "argument --workers: invalid int value: 'two'; see `mnist-job submit --help`",
        ),
        (
            ["submit", "--deadline=soon"],
            "--deadline must be seconds or a duration such as 30m, 6h or 7d, at most 36500d, not 'soon'",
        ),
        (
            ["submit", "--", "--epochs", "none"],
            "argument --epochs: invalid int value: 'none'; see `python -m job train --help`",
        ),
        (["submit", "--", "--workers=2"], "--workers cannot be given after the --; give it before the --"),
        (["preflight", "--cpu=lots"], "--cpu must be a Kubernetes quantity above 0 such as 500m or 2, not 'lots'"),
        (["why", "x", "--", "--epochs=1"], "why has no training flags; leave out what follows --"),
        (["why"], "the following arguments are required: NAME; see `mnist-job why --help`"),
        ([], "the following arguments are required: COMMAND; see `mnist-job --help`"),
    ],
)
def test_wrong_flags(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong flag of the launcher or the training is one sentence, and no cluster is contacted."""
    monkeypatch.setattr("k8s.api.kubeconfig.connect", unreachable)
    assert main(words) == 64
    assert capsys.readouterr() == ("", f"error: {sentence}\n")


def unreachable(*_: object) -> None:
    """In place of connect()."""
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (LauncherError(Status.REFUSED, "it was refused", "do this"), 2, "error: it was refused; do this\n"),
        (LauncherError(Status.UNREACHED, "nobody answers"), 3, "error: nobody answers\n"),
        (usage_error("--x is wrong"), 64, "error: --x is wrong\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_at_the_edge(
    error: BaseException, code: int, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error is one sentence and an exit status, without a traceback."""

    def run(*_: object) -> int:
        raise error

    monkeypatch.setattr(status, "run", run)
    assert main(["status"]) == code
    assert capsys.readouterr() == ("", told)
