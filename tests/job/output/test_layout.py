"""Tests that a run writes through no symbolic link."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from job.errors import Exit, JobError
from job.output.latest import move_latest
from job.output.run_folder import RunFolder
from tests.job.output.runs import fill, latest, manifest, published, tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


LINKS = (
    "runs",
    "models",
    "runs/a",
    "models/a",
    "models/.a.local",
    "models/.a.77aa",
    ".promotion-lock",
    "serving",
    "serving/.2",
    "runs/a/lock",
    "runs/a/config.json",
    "runs/a/events.jsonl",
    "runs/a/verdict.json",
    "runs/a/.verdict.json.tmp",
    "runs/a/checkpoints",
    "runs/a/checkpoints/7.safetensors",
    "runs/a/tensorboard",
    "runs/a/tensorboard/events.out",
)


@pytest.mark.parametrize("at", LINKS)
@pytest.mark.parametrize("kind", ["folder", "file", "nothing"])
def test_nothing_is_written_through_a_link(tmp_path: Path, at: str, kind: str) -> None:
    """Each action ends with 73 and names the link; its target stays as it is."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    published(root)
    (root / "serving").mkdir()
    (root / "runs/a/checkpoints").mkdir()
    (root / "runs/a/tensorboard").mkdir()
    target = outside / "target"
    outside.mkdir()
    if (root / at).is_dir():  # its content moves to the target, so that everything is still found
        (root / at).rename(target)
    elif kind == "folder":
        target.mkdir()
    elif kind == "file":
        target.write_text("{}")
    (root / at).unlink(missing_ok=True)
    (root / at).symlink_to(target)
    before = tree(tmp_path)
    output = RunFolder(root, "a", "local")

    def begin() -> None:
        with output.begin(manifest()):
            pytest.fail("begun")

    actions: list[Callable[[], object]] = [
        begin,
        output.promote_if_published,
        output.promote,
        lambda: output.publish(fill()),
        lambda: move_latest(root, "a"),
    ]
    for action in actions:
        with pytest.raises(JobError) as caught:
            action()
        assert (caught.value.code, caught.value.reason) == (Exit.OUTPUT, "output-link")
        assert (
            str(caught.value) == f"{root / at} is a symbolic link, and the job does not write through links; remove it"
        )
        assert tree(tmp_path) == before


def test_harmless_links_are_accepted(tmp_path: Path) -> None:
    """The output folder may be a link, `latest` is one, and the link of a killed promotion is replaced."""
    (tmp_path / "real").mkdir()
    root = tmp_path / "link"
    root.symlink_to("real")
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "latest").symlink_to(outside)
    (root / ".latest.a").symlink_to(outside)
    assert published(root).promote().verdict == "promoted"
    assert latest(root) == "models/a"
    assert not os.path.lexists(root / ".latest.a")
    assert list(outside.iterdir()) == []
