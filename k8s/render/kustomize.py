"""The manifests' folders, and the objects that `kubectl kustomize` makes of them."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.config import usage_error

if TYPE_CHECKING:
    from k8s.api.objects import Object

MANIFESTS = Path(__file__).parents[1] / "manifests"
FILES = ("kustomization.yaml", "kustomization.yml", "Kustomization")  # the names that kustomize knows


def folder(kind: str, name: str) -> Path:
    """The folder of an overlay or a component: one of the manifests', or the user's own.

    Args:
        kind: overlays or components.
        name: of the folder there, or a path with a slash in it.

    Raises:
        JobError: 64, there is none.
    """
    known = sorted(path.name for path in (MANIFESTS / kind).iterdir())
    if name in known:
        return MANIFESTS / kind / name
    if "/" in name and any((Path(name) / file).is_file() for file in FILES):
        return Path(name)
    one = kind.removesuffix("s")
    raise usage_error(
        f"the {one} {name!r} does not exist", f"use {', '.join(known)}, or the path of a folder with a slash in it"
    )


def kustomize(base: Path, *components: Path) -> list[Object]:
    """The objects that `kubectl kustomize` makes of a folder, with components added.

    Raises:
        JobError: 64, kubectl is not installed or cannot render the folder.
    """
    import yaml  # noqa: PLC0415 - not needed for a command's --help

    with tempfile.TemporaryDirectory() as temporary:
        if components:
            # kustomize accepts relative paths only, and follows no symbolic links in them.
            here = Path(temporary).resolve()
            relative = [os.path.relpath(path.resolve(), here) for path in (base, *components)]
            content = {"resources": relative[:1], "components": relative[1:]}
            (here / "kustomization.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
            base = here
        try:
            done = subprocess.run(["kubectl", "kustomize", base], capture_output=True, text=True, check=True)
        except FileNotFoundError:
            raise usage_error("kubectl is not on the PATH", "install it: it renders the manifests") from None
        except OSError as error:  # it is for another architecture, or may not be executed
            raise usage_error(f"kubectl cannot be run: {error.strerror}", "install it again") from None
        except subprocess.CalledProcessError as error:
            raise usage_error(f"kubectl cannot render {base}: {error.stderr.strip()}") from None
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [document for document in yaml.load_all(done.stdout, loader) if document]
