"""What commands print is what other programs read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8s.render.kustomize import kustomize
from k8s.view.output import as_yaml, note

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_control_characters_are_not_sent_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """The message of a pod could otherwise set the terminal's title or clipboard, or hide what stands before it."""
    note("one\ttwo\nüñ \x1b]52;c;eA==\x07\r\x9b2J")
    assert capsys.readouterr().err == "one\ttwo\nüñ \\x1b]52;c;eA==\\x07\\r\\x9b2J\n"


def test_kubectl_reads_texts_as_texts(tmp_path: Path) -> None:
    """Also those that Go's YAML, but not Python's, reads as a number or a truth value."""
    texts = ["1e-3", "1E5", "+1e3", ".5e-1", "0o17", "0b1", "08", "09", "y", "N", "on", "1_000", "0x1f", "5Gi", "--a=1"]
    container = {"name": "t", "args": [*texts, "mnist-job:1.0", ""], "ports": [{"containerPort": 2222}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [container]}}
    (tmp_path / "pod.yaml").write_text(as_yaml([pod]))
    (tmp_path / "kustomization.yaml").write_text("resources: [pod.yaml]")
    assert kustomize(tmp_path) == [pod]
    assert "- 5Gi\n" in as_yaml([pod])
