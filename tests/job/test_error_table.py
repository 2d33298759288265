"""Tests of the exit code and message for each error of the operating system and of TensorFlow."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
import tensorflow as tf

from job.error_table import errors_from, find_os_error
from job.errors import Exit, JobError
from job.supervisor.child import failure_of

AGAIN, LEFT = Exit.TRY_AGAIN, None
# By source: how a passing and a lasting error end; LEFT: the exception goes on to the caller.
SOURCES = {
    "output": ((AGAIN, "output-io"), (Exit.OUTPUT, "output-not-writable")),
    "published runs": ((AGAIN, "output-io"), (Exit.OUTPUT, "output-not-writable")),
    "temporary": ((AGAIN, "temporary-io"), (Exit.OUTPUT, "temporary-not-writable")),
    "dataset": ((AGAIN, "dataset-io"), (Exit.DATA_MISSING, "dataset-unreadable")),
    "data folder": ((AGAIN, "data-io"), (Exit.OUTPUT, "data-unwritable")),
    "raw files": ((AGAIN, "idx-io"), (Exit.DATA_MISSING, "idx-unreadable")),
    "model": ((AGAIN, "model-io"), LEFT),
    "picture": ((AGAIN, "image-io"), LEFT),
    "process": ((AGAIN, "no-process"), LEFT),
    "system": ((AGAIN, "system-io"), LEFT),
}
PASSING = [
    *("EIO", "ESTALE", "ETIMEDOUT", "ENOTCONN", "EREMOTEIO", "ENOLCK", "ECONNRESET", "ECONNREFUSED", "ECONNABORTED"),
    *("EPIPE", "ESHUTDOWN", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET", "ENOBUFS", "EAGAIN"),
    *("EINTR", "EBUSY", "ENXIO", "ENODEV", "EMFILE", "ENFILE", "EPROTO", "EBADF", "EDEADLK", "EUCLEAN", "EBADMSG"),
]
LASTING = [
    *("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "ENOTDIR", "EISDIR", "ENAMETOOLONG", "ELOOP", "EFBIG", "EINVAL"),
    *("ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EXDEV", "EMLINK", "ENOTEMPTY", "EEXIST"),
]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", [*PASSING, *LASTING, "ENOENT", "ENOMEM"])
def test_every_error_from_every_source(name: str, source: str) -> None:
    """The code and the reason; the sentence names the file, or else the place, and says the system's words."""
    ending = SOURCES[source][0 if name in PASSING else 1]
    if name == "ENOMEM":
        ending = Exit.OUT_OF_MEMORY, "out-of-memory"
    elif (name, source) == ("ENOENT", "dataset"):
        ending = LEFT
    number = getattr(errno, name)
    for file in ("/some/file", None):
        raised = OSError(number, os.strerror(number), file)
        with pytest.raises(JobError if ending else OSError) as caught, errors_from(source, "/some/place"):
            raise raised
        if ending is None:
            assert caught.value is raised
            continue
        assert isinstance(caught.value, JobError)
        assert (caught.value.code, caught.value.reason) == ending
        assert os.strerror(number) in caught.value.message
        assert (file or "/some/place") in caught.value.message or name == "ENOMEM"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("output", "the output folder failed at /a: Input/output error; start the run again"),
        ("published runs", "the output folder failed at /a: Input/output error; try again"),
        ("temporary", "the temporary folder /a failed: Input/output error; start the run again"),
        ("dataset", "/a could not be read: Input/output error; start the run again"),
        ("data folder", "the data folder failed at /a: Input/output error; try again"),
        ("raw files", "/a could not be read: Input/output error; try again"),
        ("model", "the model could not be read at /a: Input/output error; try again"),
        ("picture", "the picture /a could not be read: Input/output error; try again"),
        ("system", "the system failed at /a: Input/output error; start the run again"),
    ],
)
def test_sentences_of_a_failing_disk(source: str, sentence: str) -> None:
    """They name the place, the cause and the remedy."""
    with pytest.raises(JobError) as caught, errors_from(source, "/a"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (RuntimeError("pread() failed: Input/output error; reading a.array_record; at byte 64"), errno.EIO),
        (RuntimeError("fwrite() failed: No space left on device; writing a"), errno.ENOSPC),
        (RuntimeError("can't start new thread"), errno.EAGAIN),
        (ImportError("libx.so: cannot open shared object file: Input/output error"), errno.EIO),
        (tf.errors.ResourceExhaustedError(None, None, "{{node x}} /a; No space left on device [Op:S]"), errno.ENOSPC),
        (tf.errors.PermissionDeniedError(None, None, "/a; Permission denied"), errno.EACCES),
        (tf.errors.UnknownError(None, None, "/a; Transport endpoint is not connected"), errno.ENOTCONN),
        (tf.errors.UnavailableError(None, None, "/a; Stale file handle"), errno.ESTALE),
        (tf.errors.UnknownError(None, None, "OSError: [Errno 5] Input/output error: '/a'\nTraceback"), None),
        (RuntimeError("no Input/output errors"), None),
        (ValueError("x: Input/output error"), None),
        (JobError(Exit.USAGE, "usage", "x: Permission denied"), None),
        (OSError("image file is truncated"), None),
    ],
)
def test_errors_that_are_reported_in_words(error: Exception, number: int | None) -> None:
    """array_record, the dynamic linker and TensorFlow's file system repeat the system's words after punctuation."""
    found = find_os_error(error)
    assert (found and found.errno) == number


def test_the_cause_of_an_exception_counts() -> None:
    """Libraries raise their own exceptions from those of the system."""
    error = ValueError("cannot be read")
    error.__cause__ = OSError(errno.ESTALE, "Stale file handle")
    found = find_os_error(error)
    assert found is error.__cause__


def test_causes_in_a_circle_end() -> None:
    """`raise error from error` makes an exception its own cause."""
    error = ValueError("no weights")
    error.__cause__ = RuntimeError("no file")
    error.__cause__.__cause__ = error
    assert find_os_error(error) is None


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (tf.errors.PermissionDeniedError(None, None, "no"), Exit.OUTPUT, "output-not-writable"),
        (tf.errors.PermissionDeniedError(None, None, "/a; Read-only file system"), Exit.OUTPUT, "output-not-writable"),
        (tf.errors.NotFoundError(None, None, "/a; No such file or directory"), Exit.OUTPUT, "output-not-writable"),
        (tf.errors.ResourceExhaustedError(None, None, "/a; Disk quota exceeded"), Exit.OUTPUT, "output-not-writable"),
        (tf.errors.UnknownError(None, None, "/a; Input/output error"), Exit.TRY_AGAIN, "output-io"),
        (tf.errors.UnknownError(None, None, "no words"), Exit.TRY_AGAIN, "output-io"),
        (tf.errors.UnavailableError(None, None, "/a; Resource temporarily unavailable"), Exit.TRY_AGAIN, "output-io"),
        (tf.errors.ResourceExhaustedError(None, None, "OOM"), Exit.OUT_OF_MEMORY, "out-of-memory"),
        (tf.errors.InvalidArgumentError(None, None, "shape"), Exit.BUG, "bug"),
    ],
)
def test_tensorflows_errors_of_the_output(error: Exception, code: Exit, reason: str) -> None:
    """They end as if Python had written the file. Other errors keep their meaning."""
    with pytest.raises((JobError, tf.errors.OpError)) as caught, errors_from("output", Path("/a")):
        raise error
    failure = failure_of(caught.value, 1)
    assert (failure.code, failure.reason) == (code, reason)


def test_a_thread_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's exception has no error number."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(JobError) as caught, errors_from("process", "a thread"):
        threading.Thread(target=print).start()
    remedy = "let fewer processes run here, or raise their limit: `ulimit -u`, or the node's limit of processes per pod"
    assert str(caught.value) == f"a thread cannot be started: can't start new thread; {remedy}"
