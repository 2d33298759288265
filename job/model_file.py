"""A model in a file of the user's, which takes the place of job/model.py: its check, and its import."""

from __future__ import annotations

import ast
import importlib.util
import symtable
import sys
import warnings
from importlib.abc import MetaPathFinder
from importlib.machinery import SourceFileLoader
from typing import TYPE_CHECKING

from job.config import usage_error
from job.error_table import errors_from

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from pathlib import Path
    from types import ModuleType

    from job.errors import JobError

LIMIT = 1 << 20  # bytes; what Kubernetes accepts in a ConfigMap
# The functions of a model with their arguments, which job/model.py describes.
FUNCTIONS = {
    "init": ("seed",),
    "loss_and_gradient": ("params", "images", "labels", "weights"),
    "predict": ("params", "images"),
    "layers": ("params",),
}
KERAS = "job.training.keras"
FROM_KERAS = (*FUNCTIONS, "jit_compile")  # what its function model() gives, in this order
LIKE_KERAS = f"write `{', '.join(FROM_KERAS)} = model(build)`, as examples/keras_cnn/model.py does"
MODULE = "job.model"


def read_model(file: Path) -> str:
    """The source of a model, which is checked and not run.

    Raises:
        JobError: 64, it cannot be read, is not below LIMIT, is no Python, or does not define a model; 75 if reading it
            failed temporarily.
    """
    try:
        with errors_from("system", file), file.open("rb") as opened:
            content = opened.read(LIMIT)
    except OSError as error:
        raise _refused(file, f"cannot be read: {error.strerror}") from error
    if len(content) == LIMIT:
        raise _refused(file, f"must be below {LIMIT} bytes, which is the limit of a ConfigMap", "keep data out of it")
    try:
        source = content.decode()
    except UnicodeDecodeError as error:
        raise _refused(file, f"is not in UTF-8 ({error.reason} at byte {error.start})", "save it as UTF-8") from None
    check(file, source.removeprefix("\ufeff"))  # Python accepts a byte-order mark in a file
    return source


def check(file: Path, source: str) -> None:
    """Check that a source is Python and defines the functions of a model.

    Raises:
        JobError: 64, with what is wrong in it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # for example, of an unknown escape in a string
            tree = ast.parse(source)
            # It finds more mistakes, such as a `return` outside of a function.
            compile(source, str(file), "exec", dont_inherit=True)
            symbols = symtable.symtable(source, str(file), "exec").get_symbols()
    except SyntaxError as error:
        line = f"line {error.lineno}: " if error.lineno else ""
        raise _refused(file, f"is not Python: {line}{error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:  # a null byte, or expressions nested too deeply
        raise _refused(file, f"is not Python: {error or type(error).__name__}") from None
    for targets in _from_keras(tree):
        if targets != FROM_KERAS:
            message = f"unpacks {', '.join(targets)} from {KERAS}.model, which gives {', '.join(FROM_KERAS)}"
            raise _refused(file, message, LIKE_KERAS)
    names = {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}
    missing = [name for name in FUNCTIONS if name not in names]
    if missing and not _imports_all(tree):
        hint = LIKE_KERAS if _names_of_keras(tree) else "define what job/model.py defines"
        raise _refused(file, f"does not define {', '.join(missing)}", hint)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name in FUNCTIONS and not _can_take(node, FUNCTIONS[node.name]):
            arguments = ", ".join(FUNCTIONS[node.name])
            message = (
                f"has a function {node.name} in line {node.lineno} that cannot be called as {node.name}({arguments})"
            )
            raise _refused(file, message, "give it these arguments")


def use_model(file: Path | None) -> None:
    """Make `import job.model` load this file in this process from now on; None leaves job/model.py in use."""
    if file:
        sys.meta_path.insert(0, _Finder(file))


class _Finder(MetaPathFinder):
    def __init__(self, file: Path) -> None:
        self._file = file.absolute()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The file's spec if `job.model` is asked for."""
        del path, target
        if fullname != MODULE:
            return None
        loader = _Loader(fullname, str(self._file))
        return importlib.util.spec_from_file_location(fullname, self._file, loader=loader)


class _Loader(SourceFileLoader):
    """Compiles the file each time: it leaves no __pycache__ beside the file, and never runs an older version of it."""

    def path_stats(self, path: str) -> dict[str, float]:
        """Say that there are none, so that no bytecode is looked for or written."""
        raise FileNotFoundError(path)


def _imports_all(tree: ast.Module) -> bool:
    """Whether it has a `from ... import *`, whose names are not known before it is run."""
    return any(isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in tree.body)


def _names_of_keras(tree: ast.Module) -> set[str]:
    """The expressions that stand for job.training.keras.model in it."""
    parent, _, last = KERAS.rpartition(".")
    names = set()
    for node in tree.body:
        for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else ():
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if (module, alias.name) == (KERAS, "model"):
                names.add(alias.asname or "model")
            elif (module, alias.name) == (parent, last) or (module, alias.name) == (None, KERAS):
                names.add(f"{alias.asname or alias.name}.model")
    return names


def _from_keras(tree: ast.Module) -> Iterator[tuple[str, ...]]:
    """The target names of each assignment that unpacks the result of job.training.keras.model()."""
    called = _names_of_keras(tree)
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and ast.unparse(node.value.func) in called:
            yield from (tuple(map(ast.unparse, to.elts)) for to in node.targets if isinstance(to, ast.Tuple | ast.List))


def _can_take(function: ast.FunctionDef, arguments: Sequence[str]) -> bool:
    """Whether a function can be called with that many positional arguments; a decorator may change what it takes."""
    if function.decorator_list:
        return True
    own = function.args
    most, least = len(own.posonlyargs) + len(own.args), len(own.posonlyargs) + len(own.args) - len(own.defaults)
    return least <= len(arguments) <= (most if own.vararg is None else len(arguments)) and None not in own.kw_defaults


def _refused(file: Path, problem: str, hint: str = "") -> JobError:
    return usage_error(f"the model {file} {problem}", hint)
