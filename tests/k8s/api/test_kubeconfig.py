"""How a cluster is reached: kubeconfig, credential plugins, a pod's service account."""

from __future__ import annotations

import json
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes import config
from urllib3.util.ssl_ import create_urllib3_context

import k8s.api.cluster
import k8s.api.kubeconfig
import k8s.api.requests
from k8s.api.errors import LauncherError, Status
from k8s.api.kubeconfig import connect
from tests.k8s.api.configs import by_plugin, credential, kubeconfig
from tests.k8s.api.server import (
    UNAUTHORIZED,
    Frames,
    Server,
    named,
    tokens_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from k8s.api.objects import Object


def test_kubeconfig(nowhere: Path, serve: Callable[..., Server]) -> None:
    """A context gives the server, the credentials and the namespace, which a flag overrides; so does a file by flag."""
    server = serve({"major": "1", "minor": "35"})
    nowhere.write_text(json.dumps(kubeconfig(f"http://127.0.0.1:{server.port}")))
    wanted = [(None, None), ("two", None), ("two", "mine")]
    reached = [connect(context, namespace, print) for context, namespace in wanted]
    assert [cluster.namespace for cluster in reached] == ["default", "there", "mine"]
    assert reached[1].version() == (1, 35)
    assert server.headers[0]["authorization"] == "Bearer secret"
    other = nowhere.with_name("other file")
    nowhere.rename(other)
    cluster = connect("two", None, print, kubeconfig=str(other), patience_s=3)
    assert (cluster.namespace, cluster.patience_s) == ("there", 3)
    assert cluster.flags == f"-n there --context two --kubeconfig '{other}'"


UNUSABLE = "the kubeconfig cannot be used"


WHERE = r"check --kubeconfig, \$KUBECONFIG or ~/.kube/config"


NO_ADDRESS = "is not the address of an API server; write it as https://HOST:PORT"


NOWHERE = ("", "a:6443", "localhost", "127.0.0.1:6443", "https://a:66666", "https://a b", "ftp://a")


@pytest.mark.parametrize(
    ("content", "context", "sentence"),
    [
        (
            None,
            None,
            (
                "no cluster to connect to: there is no kubeconfig, and this is not a pod "
                r"\(Service host/port is not set\); set KUBECONFIG, or create ~/.kube/config"
            ),
        ),
        ("{", None, f"{UNUSABLE}: .*; {WHERE}"),
        ("words", None, f"{UNUSABLE}: .*; {WHERE}"),
        ("", "two", f"the kubeconfig /.*/kubeconfig has no contexts; {WHERE}"),
        (kubeconfig("http://a"), "three", "the kubeconfig has no context 'three'; it has one, two, broken"),
        (
            kubeconfig("http://a"),
            "broken",
            "the context 'broken' names the cluster 'x', which the kubeconfig does not have; its clusters: c",
        ),
        *((kubeconfig(server), None, f"the kubeconfig's server '{server}' {NO_ADDRESS}") for server in NOWHERE),
    ],
)
def test_unusable_kubeconfig(nowhere: Path, content: str | Object | None, context: str | None, sentence: str) -> None:
    """An unusable kubeconfig is one sentence, with the exit status of a cluster that was not reached."""
    if content is not None:
        nowhere.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(LauncherError, match=f"^{sentence}$") as caught:
        connect(context, None, print)
    assert "\n" not in str(caught.value)
    assert caught.value.status == Status.UNREACHED


def test_credential_plugin(nowhere: Path, serve: Callable[..., Server]) -> None:
    """The plugin provides the token, and a new one once that is not accepted any more."""
    server = serve(named("a"), UNAUTHORIZED, named("b"))
    token = nowhere.with_name("token")
    nowhere.write_text(json.dumps(by_plugin(f"http://127.0.0.1:{server.port}", "cat", str(token))))
    token.write_text(credential({"token": "one", "expirationTimestamp": "2020-01-01T00:00:00Z"}))
    cluster = connect(None, None, print)
    token.write_text(credential({"token": "two"}))
    assert [cluster.get("Job", name) for name in "ab"] == [named("a"), named("b")]
    assert tokens_of(server) == ["one", "one", "two"]


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["sh", "-c", "echo expired. >&2; exit 3"], "process returned 3. expired"),
        (["true"], "it prints no ExecCredential"),
        (["echo", "null"], "it prints no ExecCredential"),
        (["echo", credential({"token": "a", "expirationTimestamp": "secret"})], "it prints no ExecCredential"),
        (["echo", "{}"], "malformed response. missing key 'apiVersion'"),
        (["echo", credential({})], "missing token or clientCertificateData field in plugin output"),
    ],
)
def test_a_credential_plugin_that_fails(
    nowhere: Path, capfd: pytest.CaptureFixture[str], command: list[str], why: str
) -> None:
    """A failing plugin is one sentence, instead of requests without credentials."""
    nowhere.write_text(json.dumps(by_plugin("http://127.0.0.1:1", *command)))
    with pytest.raises(LauncherError) as caught:
        connect(None, None, print)
    assert str(caught.value) == (
        f"the kubeconfig's credential plugin (exec) failed: {why}; log in to the cluster again"
    )
    assert caught.value.status == Status.UNREACHED
    assert capfd.readouterr() == ("", "")


def test_in_a_pod(nowhere: Path, secured: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a kubeconfig, the pod's service account and namespace are used."""
    folder = nowhere.parent
    (folder / "token").write_text("pod-secret\n")
    (folder / "namespace").write_text("around\n")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(secured.port))
    monkeypatch.setattr(config.incluster_config, "SERVICE_TOKEN_FILENAME", str(folder / "token"))
    monkeypatch.setattr(config.incluster_config, "SERVICE_CERT_FILENAME", str(folder / "cert.pem"))
    monkeypatch.setattr(k8s.api.kubeconfig, "POD_NAMESPACE", folder / "namespace")
    secured.answers += [named("a")]
    cluster = connect(None, None, print)
    assert cluster.get("Job", "a") == named("a")
    assert cluster.namespace == "around"
    assert secured.asked == [("GET", "/apis/batch/v1/namespaces/around/jobs/a", None)]
    assert secured.headers[0]["authorization"].lower() == "bearer pod-secret"


def test_a_certificate_that_lacks_fields(
    nowhere: Path, loosely_secured: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is accepted, as kubectl does, although Python 3.13 and newer refuse it by default."""

    def as_in_python_3_13(**given: Any) -> ssl.SSLContext:
        context = create_urllib3_context(**given)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(k8s.api.kubeconfig, "create_urllib3_context", as_in_python_3_13)
    loosely_secured.answers += [named("a"), Frames(b'\3{"status": "Success"}')]
    content = kubeconfig(f"https://127.0.0.1:{loosely_secured.port}")
    content["clusters"][0]["cluster"]["certificate-authority"] = "cert.pem"
    nowhere.write_text(json.dumps(content))
    cluster = connect(None, None, print)
    assert cluster.get("Job", "a") == named("a")
    cluster.run_in("pod", "container", ["true"], print)


def test_a_certificate_of_an_authority_that_the_system_trusts(
    nowhere: Path, secured: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kubeconfig then needs no certificate-authority."""
    monkeypatch.setenv("SSL_CERT_FILE", str(nowhere.with_name("cert.pem")))
    secured.answers.append(named("a"))
    nowhere.write_text(json.dumps(kubeconfig(f"https://127.0.0.1:{secured.port}")))
    assert connect(None, None, print).get("Job", "a") == named("a")


def test_a_certificate_that_cannot_be_verified(nowhere: Path, secured: Server) -> None:
    """A certificate that cannot be verified is an error at once: retrying does not help."""
    nowhere.write_text(json.dumps(kubeconfig(f"https://127.0.0.1:{secured.port}")))
    with pytest.raises(LauncherError) as caught:
        connect(None, None, print).version()
    assert str(caught.value) == (
        f"certificate verification failed for the API server at https://127.0.0.1:{secured.port}: "
        "self-signed certificate; check the certificates in the kubeconfig"
    )
    assert caught.value.status == Status.UNREACHED
