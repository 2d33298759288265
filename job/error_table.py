"""The exit code, reason and message for each error of the operating system, by its source.

KINDS sorts the errors; TABLE then gives the ending for each kind and source. TensorFlow and array_record report an
error of the system only in words; find_os_error() recognises them. Other errors end as follows:

    MemoryError, and TensorFlow's ResourceExhaustedError: 71, out-of-memory
    UnavailableError, AbortedError, CancelledError, DeadlineExceededError, NCCL's report of a lost peer: 75, peer-lost
    every other exception: 70, a bug

job/supervisor/child.py judges the last two. If a connection to rank 0 fails, the rendezvous reports why and asks again
until --join-timeout. An error while the termination message is written is ignored: nothing depends on it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from typing import TYPE_CHECKING, NamedTuple

from job.errors import Exit, JobError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The names of errno(3) of each kind; names that this system lacks are ignored. All other errors are `lasting`: they
# stay until somebody changes something, such as a name that is too long or taken (ENAMETOOLONG, ENOTDIR), or a file
# system without locks or links (ENOTSUP, ENOSYS).
KINDS = {
    # The device, or the file system's server, failed temporarily. ESTALE: NFS, after its server has changed. ENOLCK and
    # EDEADLK: NFS, while its lock server restarts. EREMOTEIO, EPROTO, ECOMM: what the server or FUSE's process said.
    # EBADF: CIFS, for files that were open when its connection broke. EKEYEXPIRED: Kerberos, until a ticket is renewed.
    # ENXIO, ENODEV, ENOMEDIUM: a disk that was detached. EUCLEAN, EBADMSG, EHWPOISON: damage of this node's disk or
    # memory, which another node does not have. EMFILE and ENFILE: open files of this process and of the node.
    "passing": "EIO ESTALE EREMOTEIO EPROTO ECOMM EREMCHG ENOLINK ENONET EAGAIN EINTR EBUSY ECANCELED ETIME ENOLCK "
    "EDEADLK EBADF EKEYEXPIRED EKEYREVOKED ENOKEY ENXIO ENODEV ENOMEDIUM EUCLEAN EBADMSG EHWPOISON EMFILE ENFILE",
    # The network on the way to a file system, or to another process. ESHUTDOWN: Ceph, for a client that it excludes.
    "network": "ETIMEDOUT ENOTCONN ECONNRESET ECONNREFUSED ECONNABORTED EPIPE ESHUTDOWN EHOSTDOWN EHOSTUNREACH "
    "ENETDOWN ENETUNREACH ENETRESET ENOBUFS",
    "unwritable": "ENOSPC EDQUOT EROFS EACCES EPERM",
    "memory": "ENOMEM",
    "absent": "ENOENT",
}
# The error that a class of TensorFlow's exceptions stands for, if the message does not name the error.
TENSORFLOW = {
    "ResourceExhaustedError": errno.ENOMEM,
    "PermissionDeniedError": errno.EACCES,
    "NotFoundError": errno.ENOENT,
    "AlreadyExistsError": errno.EEXIST,
    "UnknownError": errno.EIO,
}


class Ending(NamedTuple):
    """How an error ends a process.

    The message may contain {where}, the file that failed, {place}, what was being read or written, and {what}, the
    system's words.
    """

    code: Exit
    reason: str
    message: str
    hint: str


# By source and kind. If a source does not list a kind, `passing` stands for `network`, and `lasting` for any other.
# None, or a missing `lasting`, leaves the error to the caller: the caller knows more, or the error is a bug.
TABLE: dict[str, dict[str, Ending | None]] = {
    # What rank 0 writes on the volume: runs and their locks, the journal, checkpoints, models, verdicts, `latest`.
    "output": {
        "passing": Ending(
            Exit.TRY_AGAIN, "output-io", "the output folder failed at {where}: {what}", "start the run again"
        ),
        "lasting": Ending(
            Exit.OUTPUT,
            "output-not-writable",
            "the output folder cannot be written at {where}: {what}",
            "free space, or choose a writable folder with --output",
        ),
    },
    # The same volume, as `compare` and `prune` read it.
    "published runs": {
        "passing": Ending(Exit.TRY_AGAIN, "output-io", "the output folder failed at {where}: {what}", "try again"),
        "lasting": Ending(
            Exit.OUTPUT,
            "output-not-writable",
            "the output folder cannot be read at {where}: {what}",
            "check its permissions",
        ),
    },
    # The folder for temporary files, in which a model is put together before it is copied to the volume.
    "temporary": {
        "passing": Ending(
            Exit.TRY_AGAIN, "temporary-io", "the temporary folder {where} failed: {what}", "start the run again"
        ),
        "lasting": Ending(
            Exit.OUTPUT,
            "temporary-not-writable",
            "the temporary folder {where} cannot be written: {what}",
            "free space there: in Kubernetes, raise the sizeLimit of the volume that is mounted there; elsewhere, set "
            "TMPDIR to another folder",
        ),
    },
    # A prepared dataset. It is damaged (65) only if it could be read and its content is wrong.
    "dataset": {
        "passing": Ending(Exit.TRY_AGAIN, "dataset-io", "{where} could not be read: {what}", "start the run again"),
        "lasting": Ending(
            Exit.DATA_MISSING,
            "dataset-unreadable",
            "{where} cannot be read: {what}",
            "make it readable, or give another folder with --data",
        ),
        "absent": None,  # 66 without the folder, 65 if a part of it is missing
    },
    # The data folder, while `python -m job data` writes it.
    "data folder": {
        "passing": Ending(Exit.TRY_AGAIN, "data-io", "the data folder failed at {where}: {what}", "try again"),
        "lasting": Ending(
            Exit.OUTPUT,
            "data-unwritable",
            "the data folder cannot be written at {where}: {what}",
            "make it writable or free space there, or choose another folder with --data",
        ),
    },
    # The raw files from which it prepares a dataset.
    "raw files": {
        "passing": Ending(Exit.TRY_AGAIN, "idx-io", "{where} could not be read: {what}", "try again"),
        "lasting": Ending(Exit.DATA_MISSING, "idx-unreadable", "{where} cannot be read: {what}", ""),
    },
    # The page that `compare --html` writes.
    "page": {
        "passing": Ending(Exit.TRY_AGAIN, "page-io", "{place} could not be written: {what}", "try again"),
        "lasting": Ending(
            Exit.OUTPUT, "page-not-writable", "{place} cannot be written: {what}", "choose another file with --html"
        ),
    },
    # What `data` and `compare` print.
    "standard output": {
        "passing": Ending(Exit.TRY_AGAIN, "stdout-io", "standard output could not be written: {what}", "try again"),
        "lasting": Ending(
            Exit.OUTPUT,
            "stdout-not-writable",
            "standard output cannot be written: {what}",
            "write it to a place with free space",
        ),
    },
    # A published model, and a picture, which `predict` reads.
    "model": {
        "passing": Ending(Exit.TRY_AGAIN, "model-io", "the model could not be read at {where}: {what}", "try again"),
    },
    "picture": {
        "passing": Ending(Exit.TRY_AGAIN, "image-io", "the picture {where} could not be read: {what}", "try again"),
    },
    # The start of a process or a thread.
    "process": {
        "passing": Ending(
            Exit.TRY_AGAIN,
            "no-process",
            "{where} cannot be started: {what}",
            "let fewer processes run here, or raise their limit: `ulimit -u`, or the node's limit of processes per pod",
        ),
    },
    # The supervisor's port. Another process that uses it may end.
    "port": {
        "passing": Ending(
            Exit.TRY_AGAIN, "system-io", "the supervisor cannot listen on port {where}: {what}", "start the run again"
        ),
        "lasting": Ending(
            Exit.TRY_AGAIN,
            "port-taken",
            "the supervisor cannot listen on port {where}: {what}",
            "stop the process that uses the port",
        ),
    },
    # Everything else, such as the program's own files.
    "system": {
        "passing": Ending(Exit.TRY_AGAIN, "system-io", "the system failed at {where}: {what}", "start the run again"),
    },
}
MORE_MEMORY = "give it more memory; or use a smaller --batch-size, and another --name"
MEMORY = Ending(Exit.OUT_OF_MEMORY, "out-of-memory", "memory ran out: {what}", MORE_MEMORY)

# Python's message if the system has no room for another thread; it comes without the error number, EAGAIN.
NO_THREAD = "can't start new thread"
_KIND = {
    number: kind
    for kind, names in KINDS.items()
    for name in names.split()
    if (number := getattr(errno, name, None)) is not None
}
_NUMBER = {os.strerror(number): number for number in errno.errorcode}
# The words stand alone, or between punctuation: "PATH; No space left on device", "pread() failed: Input/output error;".
_WORDS = re.compile(rf"(?:^|[:;] )({'|'.join(map(re.escape, _NUMBER))})(?=$|[\s;:.)\[])", re.MULTILINE)


@contextlib.contextmanager
def errors_from(source: str, where: Path | str) -> Iterator[None]:
    """Turn an error of the operating system into the JobError that the table gives; other exceptions pass.

    Args:
        source: a key of TABLE.
        where: what failed, if the error names no file.
    """
    try:
        yield
    except Exception as error:
        if failure := job_error(error, source, where):
            raise failure from error
        raise


def job_error(error: BaseException, source: str, where: Path | str) -> JobError | None:
    """The JobError of an exception from a source; None if it is not the operating system's, or left to the caller."""
    found = find_os_error(error)
    if str(error) == NO_THREAD:
        source, where = "process", "a thread"
    if found is None and (number := _number_by_class(error)) and (source != "system" or number == errno.ENOMEM):
        found = OSError(number, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
    if found is None:
        return None
    endings = {"memory": MEMORY, "network": TABLE[source]["passing"], **TABLE[source]}
    ending = endings.get(kind_of(found), endings.get("lasting"))
    if ending is None:
        return None
    message = ending.message.format(where=found.filename or where, place=where, what=found.strerror or found)
    return JobError(ending.code, ending.reason, message, ending.hint)


def find_os_error(error: BaseException) -> OSError | None:
    """The error of the operating system that an exception is or quotes; None if there is none.

    Its causes count too. A JobError is never one: its ending is already decided.
    """
    asked: list[BaseException] = []
    cause: BaseException | None = error
    while cause and cause not in asked and not isinstance(cause, JobError):  # `raise error from error` forms a loop
        if isinstance(cause, OSError) and cause.errno is not None:
            return cause
        text = str(cause)
        if text == NO_THREAD:
            return OSError(errno.EAGAIN, text)
        tells = isinstance(cause, OSError | RuntimeError | ImportError) or is_tensorflows(cause)
        if tells and (match := _WORDS.search(text)):
            return OSError(_NUMBER[match[1]], match[1])
        asked.append(cause)
        cause = cause.__cause__
    return None


def kind_of(error: OSError) -> str:
    """The key of KINDS to which an error of the operating system belongs; `lasting` for all others."""
    return _KIND.get(error.errno or 0, "lasting")


def _number_by_class(error: BaseException) -> int | None:
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    return TENSORFLOW.get(type(error).__name__) if is_tensorflows(error) else None


def is_tensorflows(error: BaseException) -> bool:
    """Whether TensorFlow raised an exception."""
    return type(error).__module__.startswith("tensorflow")
