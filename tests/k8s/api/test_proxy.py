"""Tests of which proxy requests use, and of what they ask it for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from k8s.api.errors import LauncherError, Status
from k8s.api.kubeconfig import connect
from k8s.api.proxy import is_direct, proxy_of
from tests.k8s.api.configs import kubeconfig
from tests.k8s.api.proxies import Proxy, http, socks
from tests.k8s.api.server import Frames, Server, named

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.3.2.1", "::1", "::ffff:127.0.0.1"])
def test_this_machine_is_reached_directly(host: str) -> None:
    """A cluster such as kind's is on this machine, where no proxy leads."""
    assert is_direct(host, 6443, "")


@pytest.mark.parametrize(
    ("host", "excepted", "direct"),
    [
        ("a.example.com", "", False),
        ("a.example.com", "*", True),
        ("a.example.com", "other, example.com", True),
        ("example.com", "example.com", True),
        ("badexample.com", "example.com", False),
        ("a.example.com", ".example.com", True),
        ("example.com", ".example.com", False),
        ("example.com", "*.example.com", False),
        ("a.example.com", "*.Example.com", True),
        ("a.example.com", "example.com:6443", True),
        ("a.example.com", "example.com:443", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.3:443", False),
        ("10.1.2.3", "10.1.2.3:6443", True),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.0.0/33,nonsense/", False),
        ("10.1.2.3", "10.1", False),
        ("fd00::1", "fd00::/8", True),
        ("fd00::1", "fd00:0::1", True),
        ("fd00::1", "[fd00::1]:6443", True),
        ("fd00::1", "[fd00::1]:443", False),
        ("fd00::1", ",,:,[],[:", False),
    ],
)
def test_exceptions(host: str, excepted: str, *, direct: bool) -> None:
    """NO_PROXY means what it means to kubectl."""
    assert is_direct(host, 6443, excepted) == direct


@pytest.mark.parametrize(
    ("server", "given", "environment", "proxy"),
    [
        ("https://a", "", {}, ""),
        ("https://a", "", {"HTTPS_PROXY": "http://p"}, "http://p:80"),
        ("https://a", "", {"https_proxy": "p:3128"}, "http://p:3128"),
        ("https://a", "", {"HTTPS_PROXY": "http://one:1", "https_proxy": "http://two:1"}, "http://one:1"),
        ("https://a", "", {"HTTP_PROXY": "http://p:1"}, ""),
        ("http://a", "", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        ("https://a", "", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "a"}, ""),
        ("https://127.0.0.1:6443", "", {"HTTPS_PROXY": "http://p:1"}, ""),
        ("https://a", "socks5://p", {"HTTPS_PROXY": "http://q:1", "NO_PROXY": "*"}, "socks5h://p:1080"),
        ("https://127.0.0.1:6443", "https://p", {}, "https://p:443"),
        ("https://a", "http://u:secret@p:3128/path", {}, "http://u:secret@p:3128"),
    ],
)
def test_the_proxy(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, server: str, given: str, environment: dict[str, str], proxy: str
) -> None:
    """The kubeconfig's own proxy always applies; otherwise the environment's, unless it excepts the server."""
    del nowhere  # the environment without proxies
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_of(server, given) == proxy


@pytest.mark.parametrize("given", ["ftp://u:secret@p", "socks4://u:secret@p", "u:secret@p:8080", "http://u:secret@p:x"])
def test_a_wrong_proxy(given: str) -> None:
    """It is refused without its password."""
    with pytest.raises(LauncherError) as caught:
        proxy_of("https://a", given)
    assert "is not the URL of a proxy; write it as http://HOST:PORT" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("scheme", "speak"), [("http", http), ("socks5", socks), ("socks5h", socks)])
def test_through_a_proxy(
    nowhere: Path, secured: Server, scheme: str, speak: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests and commands go through it, with its password; it resolves the server's name."""
    proxy = Proxy(speak, secured.port)
    monkeypatch.setenv("NO_PROXY", "*")
    content = kubeconfig("https://cluster.invalid:6443")
    content["clusters"][0]["cluster"] |= {
        "proxy-url": f"{scheme}://me:pa%2Fss@127.0.0.1:{proxy.port}",
        "certificate-authority": "cert.pem",
        "tls-server-name": "127.0.0.1",
    }
    nowhere.write_text(json.dumps(content))
    secured.answers += [named("a"), Frames(b"\1out", b'\3{"status": "Success"}')]
    cluster = connect(None, "here", print)
    output = bytearray()
    assert cluster.get("Job", "a") == named("a")
    assert cluster.run_in("p", "c", ["true"], output.extend) == (0, "")
    assert output == b"out"
    asked = (
        "CONNECT cluster.invalid:6443 Basic bWU6cGEvc3M=" if scheme == "http" else "name cluster.invalid:6443 me:pa/ss"
    )
    assert proxy.asked == [asked] * 2


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_a_proxy_that_does_not_answer(nowhere: Path, serve: Callable[..., Server], scheme: str) -> None:
    """The error names the proxy, but not its password."""
    server = serve()
    server.end()
    content = kubeconfig("https://cluster.invalid:6443")
    content["clusters"][0]["cluster"]["proxy-url"] = f"{scheme}://me:secret@127.0.0.1:{server.port}"
    nowhere.write_text(json.dumps(content))
    with pytest.raises(LauncherError) as caught:
        connect(None, None, print, patience_s=0.01).version()
    assert str(caught.value).startswith(
        "the API server at https://cluster.invalid:6443 through the proxy "
        f"{scheme}{'h' * (scheme == 'socks5')}://127.0.0.1:{server.port} does not answer: "
    )
    assert str(caught.value).endswith("from HTTPS_PROXY, which NO_PROXY restricts")
    assert "secret" not in str(caught.value)
    assert caught.value.status == Status.UNREACHED
