"""The kubeconfig's files: merged as kubectl does it, and refused in one sentence."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from k8s.api.contexts import files, read_context
from k8s.api.errors import LauncherError, Status
from k8s.api.kubeconfig import connect
from tests.k8s.api.configs import kubeconfig
from tests.k8s.api.server import Server, named

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from k8s.api.objects import Object

WHERE = "; check --kubeconfig, $KUBECONFIG or ~/.kube/config"


def told(nowhere: Path, content: object, context: str | None = None) -> str:
    """What is said of a kubeconfig: its text, or the object in it."""
    nowhere.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(LauncherError) as caught:
        connect(context, None, print)
    assert caught.value.status == Status.UNREACHED
    return str(caught.value)


CHOOSE = "; choose one with --context NAME or `kubectl config use-context NAME`"


def test_no_current_context(nowhere: Path) -> None:
    """The sentence names the contexts that there are, and how to choose one."""
    content = kubeconfig("http://a")
    del content["current-context"]
    sentence = f"the kubeconfig sets no current context; it has one, two, broken{CHOOSE}"
    assert told(nowhere, content) == sentence
    assert told(nowhere, content | {"current-context": ""}) == sentence
    assert told(nowhere, content | {"current-context": "gone"}) == (
        f"the kubeconfig's current context 'gone' does not exist; it has one, two, broken{CHOOSE}"
    )
    assert connect("two", None, print).namespace == "there"


@pytest.mark.parametrize(
    ("context", "sentence"),
    [
        (
            {"cluster": "c", "user": "x"},
            "the context 'one' names the user 'x', which the kubeconfig does not have; its users: u",
        ),
        ({"user": "u"}, f"the context 'one' of the kubeconfig names no cluster{WHERE}"),
        (None, f"the context 'one' of the kubeconfig names no cluster{WHERE}"),
    ],
)
def test_a_context_that_names_what_is_not_there(nowhere: Path, context: Object | None, sentence: str) -> None:
    """A user or a cluster that is missing is named; the context is not used without it."""
    content = kubeconfig("http://a")
    content["contexts"][0]["context"] = context
    assert told(nowhere, content) == sentence


def test_no_user_at_all(nowhere: Path) -> None:
    """The sentence says so."""
    content = kubeconfig("http://a") | {"users": None}
    assert told(nowhere, content) == (
        "the context 'one' names the user 'u', which the kubeconfig does not have; its users: none"
    )


def test_an_empty_variable_is_as_an_unset_one(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default file is used then."""
    monkeypatch.setenv("KUBECONFIG", "")
    nowhere.write_text(json.dumps(kubeconfig("http://a")))
    assert connect("two", None, print).namespace == "there"


def test_no_file_of_the_variable_exists(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default file is not used in its place."""
    nowhere.write_text(json.dumps(kubeconfig("http://a")))
    monkeypatch.setenv("KUBECONFIG", f"{nowhere}-1::{nowhere}-2")
    with pytest.raises(LauncherError) as caught:
        connect(None, None, print)
    assert (
        str(caught.value)
        == f"no file of $KUBECONFIG ({nowhere}-1::{nowhere}-2) exists; correct the variable, or run `unset KUBECONFIG`"
    )


def test_several_files(nowhere: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Server]) -> None:
    """The first file that has a name or a current context wins; empty and missing ones do not matter; as in kubectl."""
    server = serve(named("a"), *[{}] * 9)
    folders = [nowhere.parent / name for name in ("first", "second", "third")]
    for folder in folders:
        folder.mkdir()
        folder.joinpath("token").write_text(folder.name)
    paths = [folder / "config" for folder in folders]
    paths[0].write_text(json.dumps({"users": [{"name": "u", "user": {"tokenFile": "token"}}]}))
    second = kubeconfig("http://a") | {"current-context": "two"}
    second["clusters"] = []
    paths[1].write_text(json.dumps(second))
    paths[2].write_text(json.dumps(kubeconfig(f"http://127.0.0.1:{server.port}")))
    nowhere.touch()
    listed = f"{nowhere}:{paths[0]}::{nowhere}-missing:{paths[1]}:{paths[2]}"
    monkeypatch.setenv("KUBECONFIG", listed)
    cluster = connect(None, None, print)
    cluster.get("Job", "a")
    assert cluster.namespace == "there"
    assert server.headers[0]["authorization"] == "Bearer first"
    words = ["kubectl", "config", "view", "--raw", "--minify", "-o", "json"]
    seen = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
    context = read_context(None, files(None))
    assert seen["current-context"] == context.name
    assert seen["clusters"] == [{"name": "c", "cluster": context.cluster}]
    assert seen["users"] == [{"name": "u", "user": {"tokenFile": "token"}}]
    assert context.user == {"tokenFile": str(folders[0] / "token")}


def test_a_home_folder(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `~` that no shell has replaced is the home folder."""
    monkeypatch.setenv("HOME", str(nowhere.parent))
    monkeypatch.setenv("KUBECONFIG", f"~/{nowhere.name}")
    nowhere.touch()
    assert files(None) == files(f"~/{nowhere.name}") == [nowhere]


def test_the_same_file_twice(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read once."""
    monkeypatch.setenv("KUBECONFIG", f"{nowhere}:{nowhere}")
    nowhere.touch()
    assert files(None) == [nowhere]


def test_a_given_file_that_does_not_exist(nowhere: Path) -> None:
    """It is not passed over, unlike a file that the environment lists."""
    with pytest.raises(LauncherError) as caught:
        connect(None, None, print, kubeconfig=str(nowhere))
    assert str(caught.value) == f"the kubeconfig cannot be used: {nowhere}: No such file or directory{WHERE}"


USER = {"name": "u", "user": {"token": "5318008"}}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("users:\n- {token: 5318008", "{file} is not YAML (line 2)"),
        ("token: !5318008 x", "{file} is not YAML (line 1)"),
        ("token: *5318008", "{file} is not YAML (line 1)"),
        ("token: 5318008\0", "{file} is not YAML"),
        ("5318008", "{file} is not a kubeconfig"),
        ({"current-context": ["5318008"]}, "{file} is not a kubeconfig"),
        ({"users": {"token": "5318008"}}, "`users` of {file} is not a list of mappings"),
        ({"users": ["5318008"]}, "`users` of {file} is not a list of mappings"),
        ({"users": [{"user": {"token": "5318008"}}]}, "a user of {file} has no name that is text"),
        ({"users": [{"name": 5318008}]}, "a user of {file} has no name that is text"),
        ({"users": [USER, USER]}, "{file} has two users named 'u'"),
        (kubeconfig("http://a") | {"users": [USER | {"user": "5318008"}]}, "the user 'u' of {file} is not a mapping"),
        (
            kubeconfig("http://a") | {"users": [{"name": "u", "user": {"exec": "5318008"}}]},
            "`exec` of the user 'u' of {file} must be a mapping",
        ),
        (
            kubeconfig("http://a") | {"clusters": [{"name": "c", "cluster": {"insecure-skip-tls-verify": "5318008"}}]},
            "`insecure-skip-tls-verify` of the cluster 'c' of {file} must be true or false",
        ),
    ],
)
def test_not_a_kubeconfig(nowhere: Path, content: object, problem: str) -> None:
    """The sentence says what is wrong and where, and repeats nothing of the file."""
    problem = problem.replace("{file}", str(nowhere))
    assert told(nowhere, content) == f"the kubeconfig cannot be used: {problem}{WHERE}"


@pytest.mark.parametrize(
    ("server", "shown"),
    [("https://me:5318008@a:6443", "https://a:6443"), ("me:5318008@a", "a"), ("https://a@b", "https://b")],
)
def test_a_server_with_a_password(nowhere: Path, server: str, shown: str) -> None:
    """It is refused without its password."""
    assert told(nowhere, kubeconfig(server)) == (
        f"the kubeconfig's server {shown!r} is not the address of an API server; write it as https://HOST:PORT"
    )


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("certificate-authority", "none.pem", "the certificate-authority {folder}/none.pem: No such file or directory"),
        ("certificate-authority-data", "5318008", "`certificate-authority-data` is not base64"),
        ("certificate-authority-data", "NTMxODAwOA==", "its certificate-authority is not a certificate"),
    ],
)
def test_a_wrong_certificate(nowhere: Path, field: str, value: str, problem: str) -> None:
    """It is refused at once: no request could succeed."""
    content = kubeconfig("https://a")
    content["clusters"][0]["cluster"][field] = value
    problem = problem.replace("{folder}", str(nowhere.parent))
    assert told(nowhere, content) == f"the kubeconfig cannot be used: {problem}{WHERE}"
