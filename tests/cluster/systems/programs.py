"""Go programs of other projects: compiled from their modules, packed into images, loaded into a kind cluster."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mnist-job"


def module(path: str, version: str) -> Path:
    """The folder with the source of a Go module, read-only, downloaded if it is not there."""
    done = run("go", "mod", "download", "-json", f"{path}@{version}", cwd="/")
    return Path(json.loads(done)["Dir"])


def program(path: str, version: str, package: str, *tags: str) -> Path:
    """Compile a program of a module, once per version; returns its file.

    Args:
        path: of the module.
        version: of the module.
        package: the folder of the program in the module, such as "cmd/kueue".
        *tags: build tags, which leave out what the tests do not need.
    """
    file = CACHE / f"{path.rsplit('/', 1)[-1]}-{version}" / Path(package).name
    if not file.exists():
        with tempfile.TemporaryDirectory() as folder:
            # A copy, because `go install` refuses modules whose go.mod replaces others.
            source = Path(folder) / "source"
            shutil.copytree(module(path, version), source)
            run("chmod", "--recursive", "u+w", str(source))
            environment = os.environ | {"CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-mod=mod -buildvcs=false"}
            # A module's archive lacks the modules in its folders: they come from the proxy.
            for replaced in json.loads(run("go", "mod", "edit", "-json", cwd=source))["Replace"] or []:
                if "Version" not in replaced["New"] and not (source / replaced["New"]["Path"]).exists():
                    run("go", "mod", "edit", f"-dropreplace={replaced['Old']['Path']}", cwd=source)
            flags = ["-trimpath", "-ldflags=-s -w", f"-tags={','.join(tags)}"]
            run("go", "build", *flags, "-o", "program", f"./{package}", cwd=source, env=environment)
            file.parent.mkdir(parents=True, exist_ok=True)
            # Appears whole, also if two tests compile it.
            shutil.move(source / "program", file.with_suffix(f".{os.getpid()}"))
            file.with_suffix(f".{os.getpid()}").rename(file)
    return file


def load(kind: str, image: str, file: Path, *lines: str) -> None:
    """Make an image of a static program, with this machine's certificates, and load it into a kind cluster.

    Args:
        kind: the name of the cluster.
        image: the name of the image.
        file: the program, which becomes the entrypoint as /bin/NAME.
        *lines: further lines of its Dockerfile.
    """
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        shutil.copy2(file, context / file.name)
        shutil.copy2("/etc/ssl/certs/ca-certificates.crt", context / "ca-certificates.crt")
        content = [
            "FROM scratch",
            "COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt",
            f"COPY {file.name} /bin/{file.name}",
            *lines,
            f'ENTRYPOINT ["/bin/{file.name}"]',
        ]
        (context / "Dockerfile").write_text("\n".join(content) + "\n")
        run("docker", "build", "--quiet", "--tag", image, str(context))
    run("kind", "load", "docker-image", "--name", kind, image)


def run(*command: str, **options: Any) -> str:
    """Run a command; returns its standard output. A failure shows all that it printed."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout
