"""completion: what a shell offers after a few letters."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from k8s.__main__ import COMMANDS


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


def test_zsh() -> None:
    """Zsh gets a script of its own, which names every command."""
    text = script("zsh")
    assert text.startswith("#compdef mnist-job")
    assert [name for name in COMMANDS if f"\n    {name}:'" not in text] == []
