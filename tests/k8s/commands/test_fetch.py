"""fetch: a model whole and checked, over connections that break, and never a file outside its folder."""

from __future__ import annotations

import argparse
import json
import webbrowser
from typing import TYPE_CHECKING, Any

import pytest

from job.errors import JobError
from job.system.files import sha256
from k8s.api.errors import LauncherError
from k8s.commands import fetch
from k8s.volume import checksums
from k8s.volume import pod as volume_pod
from tests.k8s.fakes import VolumeCluster, volume_job

if TYPE_CHECKING:
    from pathlib import Path


def publish(volume: VolumeCluster, name: str, **files: bytes) -> Path:
    """Publish a model of these files; two underscores in a name are a slash."""
    folder = volume.root / "models" / name
    for path, content in files.items():
        file = folder / path.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    sums = [f"{sha256(folder / path.replace('__', '/'))}  {path.replace('__', '/')}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    (volume.root / "runs" / name).mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def volume(tmp_path: Path) -> VolumeCluster:
    """A volume with a model, `digits`."""
    made = VolumeCluster(tmp_path / "volume", volume_job("digits"))
    content = bytes(range(256)) * 400
    publish(made, "digits", report=b"0.92", empty=b"", saved_model__1__weights=content, saved_model__1__graph=b"\r\n")
    return made


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other at once."""
    monkeypatch.setattr(volume_pod, "RETRY_S", 0.0)


def get(volume: VolumeCluster, folder: Path, name: str = "digits", **flags: Any) -> int:
    """Run `fetch NAME DIR`."""
    given = {"name": name, "directory": folder, "report": False, "run": False, "output": "text"}
    given |= {"image": None, "claim": None}
    return fetch.run(argparse.Namespace(**given | flags), volume.given)


def content(folder: Path) -> dict[str, bytes]:
    """The files in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_whole(volume: VolumeCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The files that are on the volume are here afterwards, and no others."""
    assert get(volume, tmp_path / "here") == 0
    assert content(tmp_path / "here/digits") == content(tmp_path / "volume/models/digits")
    assert capsys.readouterr().out.splitlines() == [
        f"digits is in {tmp_path}/here/digits: 4 files, 0.1 MB, 4 of them fetched now",
        f"  model   {tmp_path}/here/digits/saved_model/1",
        f"  report  {tmp_path}/here/digits/report.html",
    ]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.usefixtures("volume")
def test_broken_connections(seed: int, tmp_path: Path) -> None:
    """However often the connection breaks, the model is whole."""
    broken = VolumeCluster(tmp_path / "volume", volume_job("digits"), seed=seed)
    assert get(broken, tmp_path / "here") == 0
    assert broken.cuts > 0
    assert content(tmp_path / "here/digits") == content(tmp_path / "volume/models/digits")


def test_resumed(volume: VolumeCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whole files are kept, partly copied ones are resumed, and damaged ones are copied again."""
    get(volume, tmp_path)
    here = tmp_path / "digits"
    weights = here / "saved_model/1/weights"
    weights.with_name(".weights.part").write_bytes(weights.read_bytes()[:1000])
    weights.unlink()
    (here / "report").write_bytes(b"0.99")
    volume.commands.clear()
    capsys.readouterr()
    get(volume, tmp_path, output="json")
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "name": "digits",
        "folder": str(here),
        "files": 4,
        "bytes": 102_406,
        "fetched": 2,
        "report": str(here / "report.html"),
    }
    assert volume.commands[2:] == [
        "tail --bytes=+1 -- /output/models/digits/report",
        "tail --bytes=+1001 -- /output/models/digits/saved_model/1/weights",
    ]
    assert content(here) == content(tmp_path / "volume/models/digits")


@pytest.mark.parametrize("left", [b"other", b"x" * 200_000], ids=["shorter", "longer"])
def test_part_of_something_else(left: bytes, volume: VolumeCluster, tmp_path: Path) -> None:
    """A part of another file, left by an earlier attempt, is discarded."""
    part = tmp_path / "digits/saved_model/1/.weights.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(left)
    (tmp_path / "digits/.SHA256SUMS.part").write_bytes(b"")
    get(volume, tmp_path)
    assert content(tmp_path / "digits") == content(tmp_path / "volume/models/digits")


def failed(volume: VolumeCluster, folder: Path, name: str = "digits") -> str:
    """The error of `fetch NAME DIR`."""
    with pytest.raises(LauncherError) as error:
        get(volume, folder, name)
    assert error.value.status == 1
    return str(error.value)


def test_damaged_on_the_volume(volume: VolumeCluster, tmp_path: Path) -> None:
    """A file that does not match SHA256SUMS does not get its name here."""
    (tmp_path / "volume/models/digits/report").write_bytes(b"0.99")
    assert failed(volume, tmp_path) == ("report of digits is damaged: its SHA-256 is not what SHA256SUMS says")
    assert set(content(tmp_path / "digits")) == {".SHA256SUMS.part"}


def test_missing_on_the_volume(volume: VolumeCluster, tmp_path: Path) -> None:
    """A file that SHA256SUMS lists and the volume lacks is named."""
    (tmp_path / "volume/models/digits/report").unlink()
    assert failed(volume, tmp_path) == (
        "the model digits on the volume is damaged: missing files or symbolic links: report; "
        "train it again under another name"
    )


def test_not_published(volume: VolumeCluster, tmp_path: Path) -> None:
    """A run without a model and a run that does not exist have different errors."""
    (tmp_path / "volume/runs/young").mkdir()
    assert failed(volume, tmp_path, "young") == (
        "young has not published a model yet; `mnist-job status young -n here` shows its progress"
    )
    assert failed(volume, tmp_path, "nobody") == (
        "there is no run nobody on the claim output; choose another claim with --claim"
    )


def test_latest(volume: VolumeCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`latest` is followed, and the run that it points to is named."""
    assert failed(volume, tmp_path, "latest") == (
        "no model is promoted yet: there is no `latest` on the claim output; fetch a run by its name"
    )
    (tmp_path / "volume/latest").symlink_to("models/digits")
    get(volume, tmp_path, "latest")
    assert capsys.readouterr().err == "latest is digits\n"
    assert content(tmp_path / "digits") == content(tmp_path / "volume/models/digits")


def test_latest_leads_elsewhere(volume: VolumeCluster, tmp_path: Path) -> None:
    """A `latest` that does not point to a model is not followed."""
    (tmp_path / "volume/latest").symlink_to("../../etc")
    assert failed(volume, tmp_path, "latest") == (
        "`latest` on the claim output points to '../../etc', which is not a model; `promote` a published run"
    )


def test_unsafe_names(volume: VolumeCluster, tmp_path: Path) -> None:
    """A name that could leave the folder is a usage error."""
    with pytest.raises(JobError, match="NAME must be lower-case letters, digits and hyphens"):
        get(volume, tmp_path, "../x")


def test_links_on_the_volume(volume: VolumeCluster, tmp_path: Path) -> None:
    """Files that are reached through links on the volume are named, and nothing is fetched."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_bytes(b"key")
    folder = publish(volume, "evil", good=b"1")
    (folder / "file").symlink_to(tmp_path / "secret/key")
    (folder / "sub").symlink_to(tmp_path / "secret")
    with (folder / "SHA256SUMS").open("a") as sums:
        sums.write(f"{sha256(folder / 'file')}  file\n{sha256(folder / 'file')}  sub/key\n")
    assert failed(volume, tmp_path, "evil") == (
        "the model evil on the volume is damaged: missing files or symbolic links: file, sub/key; "
        "train it again under another name"
    )
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("link", ["digits", "digits/saved_model", "digits/report", "digits/.report.part"])
def test_links_here(link: str, volume: VolumeCluster, tmp_path: Path) -> None:
    """Nothing is written through a link on this machine."""
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    (here / link).parent.mkdir(parents=True)
    elsewhere.mkdir()
    (here / link).symlink_to(elsewhere)
    assert failed(volume, here) == (
        f"`fetch` does not write through symbolic links: {here / link}; remove them, or choose another DIR"
    )
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("flags", [{}, {"run": True}])
def test_a_folder_of_somebody_else(flags: dict[str, Any], volume: VolumeCluster, tmp_path: Path) -> None:
    """The volume decides what `latest` is, so it must not be able to replace files of a folder with that name."""
    folder = tmp_path / "here"
    (folder / "digits").mkdir(parents=True)
    (folder / "digits" / "report.html").write_text("mine")
    with pytest.raises(LauncherError) as caught:
        get(volume, folder, **flags)
    assert str(caught.value) == (
        f"{folder / 'digits'} exists, and does not look like a folder that `fetch` made; "
        "choose another DIR, or move that folder away"
    )
    assert content(folder / "digits") == {"report.html": b"mine"}


def test_folder_that_cannot_be_written(volume: VolumeCluster, tmp_path: Path) -> None:
    """If DIR cannot be written, the error is one sentence."""
    (tmp_path / "digits").write_bytes(b"a file")
    assert failed(volume, tmp_path).endswith("; choose another DIR")


def test_report_is_opened(
    volume: VolumeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--report opens the page that was fetched, or says that there is no browser."""
    opened: list[str] = []

    def browser(url: str) -> bool:
        opened.append(url)
        return len(opened) == 1

    monkeypatch.setattr(webbrowser, "open", browser)
    get(volume, tmp_path, report=True)
    assert capsys.readouterr().err == ""
    get(volume, tmp_path, report=True)
    assert opened == [f"file://{tmp_path}/digits/report.html"] * 2
    assert capsys.readouterr().err == f"no browser was found; open {tmp_path}/digits/report.html yourself\n"


SUM = "0" * 64
HOSTILE = [
    "../x",
    "a/../../x",
    "/etc/x",
    "a//b",
    "./a",
    "a/.",
    "..",
    ".",
    "a\\b",
    "a\tb",
    "\x1b[31mred",
    "a/SHA256SUMS",
    "a/.b.part",
]


@pytest.mark.parametrize("path", HOSTILE)
def test_unsafe_paths(path: str) -> None:
    """Each path that could lead out of the folder is named, and nothing is fetched."""
    with pytest.raises(LauncherError) as refused:
        checksums.parse_checksums(f"{SUM}  fine\n{SUM}  {path}\n")
    assert str(refused.value) == f"SHA256SUMS names unsafe paths: {path!r}; nothing was written"


def test_file_that_is_a_folder_too() -> None:
    """A path below the path of another file is refused."""
    with pytest.raises(LauncherError, match="names unsafe paths: 'a/b/c'; nothing"):
        checksums.parse_checksums(f"{SUM}  a/b/c\n{SUM}  a\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "SHA256SUMS is empty"),
        ("<html>", "SHA256SUMS is damaged: '<html>' is not a line of `sha256sum`"),
        (f"\\{SUM}  a\\nb\n", f"SHA256SUMS is damaged: '\\\\{SUM}  a\\\\nb' is not a line of `sha256sum`"),
        (f"{SUM}  a\n{SUM}  a\n", f"SHA256SUMS is damaged: '{SUM}  a' names a path for the second time"),
    ],
    ids=["empty", "a page", "escaped", "twice"],
)
def test_damaged_lists(text: str, said: str) -> None:
    """A list that `sha256sum` would not write is refused."""
    with pytest.raises(LauncherError) as refused:
        checksums.parse_checksums(text)
    assert str(refused.value) == said
