"""completion: what a shell offers for the words typed so far."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from k8s.__main__ import COMMANDS

if TYPE_CHECKING:
    from pathlib import Path


def script(shell: str) -> str:
    """What `completion SHELL` prints."""
    command = [sys.executable, "-m", "k8s", "completion", shell]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["mnist-job", ""], set(COMMANDS)),
        (["mnist-job", "res"], {"resume"}),
        (["mnist-job", "logs", "--ra"], {"--rank"}),
        (["mnist-job", "completion", ""], {"bash", "zsh"}),
    ],
    ids=["commands", "a command", "a flag", "a choice"],
)
def test_bash(words: list[str], offered: set[str]) -> None:
    """Bash offers commands, their flags and their choices."""
    if not shutil.which("bash"):
        pytest.skip("there is no bash")
    asked = f"""
        COMP_WORDS=({" ".join(word or "''" for word in words)}) COMP_CWORD={len(words) - 1}
        $(complete -p mnist-job | sed 's/.*-F \\([^ ]*\\) .*/\\1/') 2>/dev/null
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script("bash") + asked], capture_output=True, text=True, check=True)
    assert {word for word in done.stdout.split() if not word.startswith("-") or words[-1]} == offered


def test_names_of_runs() -> None:
    """Bash offers the names of runs and schedules that the cluster has."""
    if not shutil.which("bash"):
        pytest.skip("there is no bash")
    asked = """
        mnist-job() { [ "$*" = "status -o name --request-timeout 2s" ] && printf 'digits\\nnightly\\n'; }
        COMP_WORDS=(mnist-job logs d) COMP_CWORD=2
        $(complete -p mnist-job | sed 's/.*-F \\([^ ]*\\) .*/\\1/') 2>/dev/null
        echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(["bash", "-c", script("bash") + asked], capture_output=True, text=True, check=True)
    assert done.stdout == "digits\n"


# Types words and a tab into an interactive zsh with the completion, and then a command that prints the line it made.
TYPE = """
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "stty rows 100 cols 200; autoload -Uz compinit && compinit -D -u"
zpty -w shell "eval \\"\\$(cat $1)\\"; print set-\\"\\"up"
zpty -r shell shown '*set-up*'
zpty -w -n shell "mnist-job $2"$'\\t'
zpty -w shell $'\\C-aprint -r -- "<\\C-e>"; print all-""typed'
zpty -r shell shown '*all-typed*'
print -r -- $shown
"""


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("", [rf"{name} +-- [A-Z]" for name in COMMANDS]),
        ("res", ["<mnist-job resume>"]),
        ("logs --r", ["--rank +-- ", "--request-timeout +-- "]),
        ("completion z", ["<mnist-job completion zsh>"]),
    ],
    ids=["commands", "a command", "a flag", "a choice"],
)
def test_zsh(words: str, shown: list[str], tmp_path: Path) -> None:
    """Zsh offers the same."""
    if not shutil.which("zsh"):
        pytest.skip("there is no zsh")
    (tmp_path / "completion").write_text(script("zsh"))
    command = ["zsh", "-f", "-c", TYPE, "zsh", str(tmp_path / "completion"), words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd=tmp_path)
    assert [wanted for wanted in shown if not re.search(wanted, done.stdout)] == []
