"""A registry with TLS and a password on this machine, which the nodes of a kind cluster reach.

It is Debian's docker-registry. Its certificate is of an authority that nobody knows: trust() makes this machine's
engines and the nodes know it.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.cluster.namespace import ROOT, wait_until
from tests.cluster.systems.programs import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.namespace import Namespace

PROGRAMS = ("docker-registry", "htpasswd", "openssl")
# Where docker, and podman with buildah, look for the authorities of a registry.
ENGINES = (Path("/etc/docker/certs.d"), Path("/etc/containers/certs.d"))
# kind's containerd reads this folder before every pull.
NODES = "/etc/containerd/certs.d"
CONFIGURATION = """\
version: 0.1
log: {{level: warn}}
storage:
  filesystem: {{rootdirectory: {folder}/data}}
  delete: {{enabled: true}}
http:
  addr: {host}
  tls: {{certificate: {folder}/registry.crt, key: {folder}/registry.key}}
auth:
  htpasswd: {{realm: test, path: {folder}/htpasswd}}
"""


class Registry:
    """The registry, which runs during a `with`.

    Args:
        folder: an empty folder for its files and images.
        kind: the kind cluster.

    Attributes:
        host: its address and port, which begin the name of an image.
        user, password: the login.
        environment: with it, docker, podman and buildah are logged in.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder = folder
        self._nodes = run("kind", "get", "nodes", "--name", kind).split()
        [gateway] = [each["Gateway"] for each in ipam() if ":" not in each["Subnet"]]
        with socket.create_server((gateway, 0)) as free:
            port = free.getsockname()[1]
        self.host, self.user, self.password = f"{gateway}:{port}", "tester", secrets.token_hex(16)
        logins = folder / "logins"
        logins.mkdir()
        (logins / "config.json").write_text(self.docker_config())
        self.environment = os.environ | {"DOCKER_CONFIG": str(logins), "REGISTRY_AUTH_FILE": f"{logins}/config.json"}

    def docker_config(self) -> str:
        """The login, as docker's config.json."""
        login = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return json.dumps({"auths": {self.host: {"auth": login}}})

    @contextmanager
    def running(self) -> Iterator[Registry]:
        """Start it and, at the end, stop it, and remove what trusts it and what the nodes have of it."""
        self._certify()
        (self._folder / "htpasswd").write_text(run("htpasswd", "-Bbn", self.user, self.password))
        configuration = self._folder / "config.yml"
        configuration.write_text(CONFIGURATION.format(folder=self._folder, host=self.host))
        with (self._folder / "log").open("w") as log:
            process = subprocess.Popen(["docker-registry", "serve", configuration], stdout=log, stderr=log)
        try:
            wait_until(lambda: self._answers(process), "the registry")
            self.trust()
            yield self
        finally:
            process.terminate()
            process.wait()
            self.forget()
            self.distrust()
            for folder in ENGINES:
                shutil.rmtree(folder / self.host, ignore_errors=True)

    def trust(self) -> None:
        """Let this machine's engines and the nodes know the authority."""
        for folder in ENGINES:
            (folder / self.host).mkdir(parents=True, exist_ok=True)
            shutil.copy(self._folder / "ca.crt", folder / self.host)
        for node in self._nodes:
            run("docker", "exec", node, "mkdir", "-p", f"{NODES}/{self.host}")
            run("docker", "cp", str(self._folder / "ca.crt"), f"{node}:{NODES}/{self.host}/ca.crt")

    def distrust(self) -> None:
        """Let the nodes forget the authority."""
        for node in self._nodes:
            run("docker", "exec", node, "rm", "-rf", f"{NODES}/{self.host}")

    def forget(self) -> None:
        """Remove the images of this registry from the nodes, with their layers, which also their containers hold."""
        for node in self._nodes:
            # Its own limit of 2 s is too short for the layers of a large image.
            crictl = ["docker", "exec", node, "crictl", "--timeout=10m"]
            for image in json.loads(run(*crictl, "images", "--output=json"))["images"]:
                names = image.get("repoTags", []) + image.get("repoDigests", [])
                if names and all(name.startswith(self.host) for name in names):
                    if held := run(*crictl, "ps", "--all", "--quiet", "--image", image["id"]):
                        run(*crictl, "rm", "--force", *held.split())
                    run(*crictl, "rmi", image["id"])

    def push(self, local: str, repository: str) -> str:
        """Push an image of docker's into a repository, such as `you/mnist-job`; returns its name by digest."""
        name = f"{self.host}/{repository}"
        run("docker", "tag", local, f"{name}:pushed")
        try:
            output = run("docker", "push", f"{name}:pushed", env=self.environment)
        finally:
            run("docker", "rmi", f"{name}:pushed")
        [digest] = re.findall(r"digest: (sha256:[0-9a-f]{64})", output)
        return f"{name}@{digest}"

    def let_pull(self, namespace: Namespace) -> None:
        """Give the pods of a namespace's runs a pull secret, as docs/kubernetes.md says."""
        login = [f"--docker-server={self.host}", f"--docker-username={self.user}", f"--docker-password={self.password}"]
        namespace.kubectl("create", "secret", "docker-registry", "pull", *login)
        namespace.kubectl("apply", "-f", str(ROOT / "k8s/manifests/setup/serviceaccount.yaml"))
        namespace.kubectl("patch", "serviceaccount", "mnist-job", "--patch", "imagePullSecrets: [name: pull]")

    def manifest(self, image: str) -> dict[str, Any]:
        """The manifest of an image, whose name begins with the host."""
        repository, reference = self._parts(image)
        accept = "application/vnd.oci.image.manifest.v1+json,application/vnd.docker.distribution.manifest.v2+json"
        return dict(json.loads(self._get(f"{repository}/manifests/{reference}", Accept=accept)))

    def layers(self, image: str) -> list[str]:
        """The SHA-256 of each layer of an image, uncompressed, the lowest first."""
        digest = self.manifest(image)["config"]["digest"]
        config = json.loads(self._get(f"{self._parts(image)[0]}/blobs/{digest}"))
        return list(config["rootfs"]["diff_ids"])

    def _parts(self, image: str) -> tuple[str, str]:
        """The repository, and the tag or digest."""
        repository, _, reference = image.removeprefix(f"{self.host}/").partition("@" if "@" in image else ":")
        return repository, reference

    def _certify(self) -> None:
        """Make the authority, ca.crt, and the certificate, registry.crt."""
        new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        files = ["-keyout", "ca.key", "-out", "ca.crt"]
        run(*new, "-x509", "-subj", "/CN=authority of a test", *files, cwd=self._folder)
        name = ["-addext", f"subjectAltName=IP:{self.host.rpartition(':')[0]}"]
        files = ["-keyout", "registry.key", "-out", "registry.csr"]
        run(*new, "-subj", "/CN=registry of a test", *name, *files, cwd=self._folder)
        sign = ["openssl", "x509", "-req", "-in", "registry.csr", "-out", "registry.crt", "-copy_extensions", "copy"]
        run(*sign, "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", cwd=self._folder)

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        log = self._folder / "log"
        assert process.poll() is None, log.read_text()
        try:
            self._get("")
        except OSError:
            return False
        return True

    def _get(self, path: str, **headers: str) -> bytes:
        login = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        request = urllib.request.Request(
            f"https://{self.host}/v2/{path}", headers={"Authorization": f"Basic {login}", **headers}
        )
        direct = urllib.request.ProxyHandler({})
        trusting = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(self._folder / "ca.crt")))
        content: bytes = urllib.request.build_opener(direct, trusting).open(request, timeout=30).read()
        return content


def ipam() -> list[dict[str, str]]:
    """The addresses of docker's network `kind`, in which kind's nodes are."""
    found: list[dict[str, str]] = json.loads(run("docker", "network", "inspect", "kind"))[0]["IPAM"]["Config"]
    return found
