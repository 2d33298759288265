"""Credentials of a kubeconfig's user: as kubectl sends them, and never shown."""

from __future__ import annotations

import base64
import json
import subprocess
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from k8s.__main__ import main
from k8s.api.errors import LauncherError, Status
from k8s.api.kubeconfig import connect
from tests.k8s.api.configs import by_plugin, credential, kubeconfig
from tests.k8s.api.server import Frames, Server, named

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from k8s.api.objects import Object

SENT = ("authorization", "impersonate-")  # headers that say who asks


def who(server: Server, request: int = 0) -> list[tuple[str, str]]:
    """The headers of a request that say who asks, in the order of their names."""
    headers = [(name.lower(), value) for name, value in server.repeated[request]]
    return sorted(header for header in headers if header[0].startswith(SENT))


PLUGIN = by_plugin("", "echo", credential({"token": "plugged"}))["users"][0]["user"]["exec"]
USERS: dict[str, tuple[Object, list[tuple[str, str]]]] = {
    "token": ({"token": "secret"}, [("authorization", "Bearer secret")]),
    "token file": ({"tokenFile": "tokens/mine"}, [("authorization", "Bearer filed")]),
    "token and its file": ({"token": "old", "tokenFile": "tokens/mine"}, [("authorization", "Bearer filed")]),
    "password": (
        {"username": "jürgen", "password": "geheim:ß\n"},
        [("authorization", f"Basic {base64.b64encode('jürgen:geheim:ß'.encode() + bytes([10])).decode()}")],
    ),
    "no password": ({"username": "me"}, [("authorization", "Basic bWU6")]),
    "plugin": ({"exec": PLUGIN}, [("authorization", "Bearer plugged")]),
    "token and plugin": ({"token": "secret", "exec": PLUGIN}, [("authorization", "Bearer secret")]),
    "another user": (
        {"token": "secret", "as": "weaker"},
        [("authorization", "Bearer secret"), ("impersonate-user", "weaker")],
    ),
    "another user's groups": (
        {
            "token": "secret",
            "as": "jürgen",
            "as-uid": "7",
            "as-groups": ["b", "a, c"],
            "as-user-extra": {"example.com/a%b": ["x", "y"]},
        },
        [
            ("authorization", "Bearer secret"),
            ("impersonate-extra-example.com%2fa%25b", "x"),
            ("impersonate-extra-example.com%2fa%25b", "y"),
            ("impersonate-group", "a, c"),
            ("impersonate-group", "b"),
            ("impersonate-uid", "7"),
            ("impersonate-user", "jürgen".encode().decode("latin-1")),
        ],
    ),
}


@pytest.mark.parametrize("name", USERS)
def test_the_same_as_kubectl(nowhere: Path, secured: Server, name: str) -> None:
    """The launcher says in each request who asks, as kubectl does."""
    user, expected = USERS[name]
    secured.answers += [{}] * 9
    nowhere.with_name("tokens").mkdir()
    nowhere.with_name("tokens").joinpath("mine").write_text("filed\n")
    content = kubeconfig(f"https://127.0.0.1:{secured.port}")
    content["clusters"][0]["cluster"]["certificate-authority"] = "cert.pem"
    content["users"][0]["user"] = user
    nowhere.write_text(json.dumps(content))
    kubectl = ["kubectl", "--kubeconfig", str(nowhere), "get", "--raw", "/version"]
    subprocess.run(kubectl, check=True, capture_output=True, cwd=nowhere.parent)
    by_kubectl = len(secured.asked)  # some builds of kubectl ask for the version by themselves, too
    secured.answers[:] = [named("a"), Frames(b'\3{"status": "Success"}')]
    cluster = connect(None, None, print)
    assert cluster.get("Job", "a") == named("a")
    cluster.run_in("pod", "container", ["true"], print)
    assert [who(secured, request) for request in range(by_kubectl + 2)] == [expected] * (by_kubectl + 2)
    assert by_kubectl > 0


@pytest.mark.parametrize("user", [{}, {"token": None, "username": "", "as": "", "as-groups": None}])
def test_nobody(nowhere: Path, serve: Callable[..., Server], user: Object) -> None:
    """A user without credentials is an anonymous one. kubectl asks for a password here."""
    server = serve(named("a"))
    content = kubeconfig(f"http://127.0.0.1:{server.port}")
    content["users"][0]["user"] = user
    nowhere.write_text(json.dumps(content))
    connect(None, None, print).get("Job", "a")
    assert who(server) == []


LINE = "contains a line break or another control character; remove it"
BAD_TOKENS = [
    (where, token)
    for where in ("token", "plugin", "file")
    for token in ("sec\nret", "secret\n", "sec\0ret", "sec\x7fret", "secret\r\nX-Injected: yes")
    if (where, token) != ("file", "secret\n")  # that one is sent: a file ends with a line break
]


@pytest.mark.parametrize(("where", "token"), BAD_TOKENS)
def test_a_token_that_cannot_be_sent(nowhere: Path, capfd: pytest.CaptureFixture[str], where: str, token: str) -> None:
    """It is refused in one sentence, and not shown."""
    content = kubeconfig("http://127.0.0.1:1")
    if where == "plugin":
        content = by_plugin("http://127.0.0.1:1", "echo", credential({"token": token}).replace("\\", "\\\\"))
        content["users"][0]["user"]["exec"] |= {
            "command": "printf",
            "args": [credential({"token": token}).replace("\\", r"\\")],
        }
    elif where == "file":
        nowhere.with_name("token").write_bytes(token.encode())
        content["users"][0]["user"] = {"tokenFile": "token"}
    else:
        content["users"][0]["user"] = {"token": token}
    nowhere.write_text(json.dumps(content))
    assert main(["status"]) == Status.UNREACHED
    out, err = capfd.readouterr()
    assert (out, err) == ("", f"error: the token or the password of the kubeconfig's user 'u' {LINE}\n")


UNUSABLE = "the kubeconfig cannot be used: "
WHERE = "; check --kubeconfig, $KUBECONFIG or ~/.kube/config"
SECRETS: list[tuple[Object, str]] = [
    ({"token": 5318008}, "`token` of the user 'u' of {file} must be text (write it in quotes)"),
    ({"token": ["5318008"]}, "`token` of the user 'u' of {file} must be text (write it in quotes)"),
    ({"username": "me", "password": 5318008}, "`password` of the user 'u' of {file} must be text (write it in quotes)"),
    (
        {"token": "5318008", "username": "me"},
        "the user 'u' has a token and a password, and only one of them is allowed",
    ),
    ({"tokenFile": "no/file"}, "the tokenFile {folder}/no/file of the user 'u': No such file or directory"),
    ({"tokenFile": "empty"}, "the tokenFile {folder}/empty of the user 'u' is empty"),
    ({"tokenFile": "image"}, "the tokenFile {folder}/image of the user 'u' is not text"),
    ({"client-certificate-data": "5318008"}, "`client-certificate-data` is not base64"),
    (
        {"client-key": "no-key", "client-certificate": "no"},
        "the client-certificate {folder}/no: No such file or directory",
    ),
    (
        {"client-certificate-data": "NTMxODAwOA==", "client-key-data": "NTMxODAwOA=="},
        "the user's client-certificate and client-key are not a certificate with its key",
    ),
    ({"as-groups": ["5318008"]}, "the user 'u' has `as-groups`, but not `as`"),
    ({"as": "a", "as-groups": "5318008"}, "`as-groups` of the user 'u' of {file} must be a list"),
    (
        {"as": "a", "as-user-extra": {"a": "5318008"}},
        "`as-groups` and the values of `as-user-extra` of the user 'u' of {file} must be lists of text",
    ),
]


@pytest.mark.parametrize(("user", "sentence"), SECRETS)
def test_wrong_credentials(nowhere: Path, capfd: pytest.CaptureFixture[str], user: Object, sentence: str) -> None:
    """They are refused in one sentence that does not repeat them."""
    nowhere.with_name("empty").touch()
    nowhere.with_name("image").write_bytes(b"\xff5318008")
    content = kubeconfig("https://127.0.0.1:1")
    content["users"][0]["user"] = user
    nowhere.write_text(json.dumps(content))
    assert main(["status"]) == Status.UNREACHED
    told = sentence.format(file=nowhere, folder=nowhere.parent)
    assert capfd.readouterr() == ("", f"error: {UNUSABLE}{told}{WHERE}\n")


@pytest.mark.parametrize("value", ["weak\ner", "weaker\0"])
@pytest.mark.parametrize("field", ["as", "as-uid", "as-groups", "as-user-extra"])
def test_another_user_that_cannot_be_named(nowhere: Path, field: str, value: str) -> None:
    """What cannot be sent in a header is refused before it is tried."""
    content = kubeconfig("http://127.0.0.1:1")
    values: dict[str, Any] = {"as-groups": [value], "as-user-extra": {"a": [value]}}
    content["users"][0]["user"] = {"as": "weaker", field: values.get(field, value)}
    nowhere.write_text(json.dumps(content))
    with pytest.raises(LauncherError, match=f"^what `as` contains for the user 'u' {LINE}$"):
        connect(None, None, print)


def test_a_plugin_that_is_not_installed(nowhere: Path) -> None:
    """The sentence names it, with the kubeconfig's own hint if it has one."""
    content = by_plugin("http://127.0.0.1:1", "no-such-plugin")
    nowhere.write_text(json.dumps(content))
    message = "the kubeconfig's credential plugin no-such-plugin (exec) is not installed, or cannot be run; "
    with pytest.raises(LauncherError) as caught:
        connect(None, None, print)
    assert str(caught.value) == f"{message}install it, or correct its path in the kubeconfig"
    content["users"][0]["user"]["exec"]["installHint"] = "Install it:\n  apt-get install plugin.\n"
    nowhere.write_text(json.dumps(content))
    with pytest.raises(LauncherError) as caught:
        connect(None, None, print)
    assert str(caught.value) == f"{message}Install it: apt-get install plugin"


def test_a_plugin_beside_the_kubeconfig(nowhere: Path, serve: Callable[..., Server]) -> None:
    """A relative path of a plugin begins at the kubeconfig's folder; the plugin runs in the current one."""
    server = serve(named("a"))
    plugin = nowhere.with_name("plugin")
    plugin.write_text(f"#!/bin/sh\necho '{credential({'token': 'plugged'})}'\n")
    plugin.chmod(0o755)
    nowhere.write_text(json.dumps(by_plugin(f"http://127.0.0.1:{server.port}", "./plugin")))
    connect(None, None, print).get("Job", "a")
    assert who(server) == [("authorization", "Bearer plugged")]


@pytest.mark.parametrize(
    ("provider", "sentence"),
    [
        (
            {"name": "azure", "config": {"access-token": "5318008"}},
            ", 'azure', is not supported; use a credential plugin (exec) instead",
        ),
        ({"name": "oidc"}, " gives no valid token; log in to the cluster again"),
        ({"name": "oidc", "config": {"id-token": "5318008"}}, " gives no valid token; log in to the cluster again"),
        ({"name": "oidc", "config": {"id-token": "a.5318008.c"}}, " failed: "),
        (
            {"name": "oidc", "config": {"client-secret": "5318008"}},
            (
                " failed: Invalid kube-config file. Expected key id-token in "
                "kube-config/users[name=user]/user/auth-provider/config; log in to the cluster again"
            ),
        ),
    ],
)
def test_an_auth_provider_that_gives_no_token(nowhere: Path, provider: Object, sentence: str) -> None:
    """It is one sentence, and not a request without credentials."""
    content = kubeconfig("https://127.0.0.1:1")
    content["users"][0]["user"] = {"auth-provider": provider}
    nowhere.write_text(json.dumps(content))
    with pytest.raises(LauncherError) as caught:
        connect(None, None, print)
    assert str(caught.value).startswith(f"the auth-provider of the kubeconfig's user 'u'{sentence}")
    assert "5318008" not in str(caught.value)


def test_no_warning_of_a_server_that_is_not_verified(nowhere: Path, secured: Server) -> None:
    """insecure-skip-tls-verify is the user's own decision; kubectl does not warn either."""
    content = kubeconfig(f"https://127.0.0.1:{secured.port}")
    content["clusters"][0]["cluster"]["insecure-skip-tls-verify"] = True
    nowhere.write_text(json.dumps(content))
    secured.answers += [named("a")] * 2
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        cluster = connect(None, None, print)
        assert [cluster.get("Job", "a") for _ in range(2)] == [named("a")] * 2
    assert shown == []
