"""Choose a request's proxy like kubectl, which uses Go's golang.org/x/net/http/httpproxy."""

from __future__ import annotations

import os
import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from k8s.api.errors import unreached

SCHEMES = ("http", "https", "socks5", "socks5h")
PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


def proxy_of(server: str, given: str) -> str:
    """The URL of the proxy for an API server, with its user and password; empty without one.

    Args:
        server: the API server's URL.
        given: the kubeconfig's proxy-url, which takes precedence; empty without one.

    Raises:
        LauncherError: 3, the proxy's URL is wrong.
    """
    if given:
        return checked(given, "proxy-url of the kubeconfig")
    url = urlsplit(server)
    name = f"{url.scheme}_proxy"
    found = os.environ.get(name.upper()) or os.environ.get(name)
    excepted = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
    if not found or is_direct(url.hostname or "", url.port or PORTS[url.scheme], excepted):
        return ""
    return checked(found if "://" in found else f"http://{found}", f"${name.upper()}")


def checked(proxy: str, source: str) -> str:
    """A proxy's URL with a port; a SOCKS proxy resolves the server's name itself, as Go has it do.

    Raises:
        LauncherError: 3, it is no URL of a proxy.
    """
    try:
        url = urlsplit(proxy)
        port, valid = url.port, url.scheme in SCHEMES and url.hostname and not re.search(r"[\s\x00-\x20\x7f]", proxy)
    except ValueError:  # an invalid port
        valid = False
    if not valid:
        message = f"{source}, {without_password(proxy)!r}, is not the URL of a proxy"
        raise unreached(message, "write it as http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT")
    scheme = "socks5h" if url.scheme == "socks5" else url.scheme
    return f"{scheme}://{url.netloc if port else f'{url.netloc}:{PORTS[scheme]}'}"


def without_password(url: str) -> str:
    """A URL as messages show it."""
    return re.sub(r"^([^/]*//)?.*@", r"\1", url)


def is_direct(host: str, port: int, excepted: str) -> bool:
    """Whether requests to a host use no proxy: because it is this machine, or because of NO_PROXY.

    Args:
        host: a name or an IP address.
        port: its port.
        excepted: NO_PROXY: names with their subdomains, .suffixes, addresses or networks, each with a port or without;
            or * for all.
    """
    address = address_of(host)
    if host == "localhost" or (address and address.is_loopback):
        return True
    return any(is_excepted(host.lower(), address, port, entry.strip().lower()) for entry in excepted.split(","))


def is_excepted(host: str, address: IPv4Address | IPv6Address | None, port: int, entry: str) -> bool:
    """Whether an entry of NO_PROXY names a host; address is the host's, if it is one. A wrong entry names nothing."""
    if "/" in entry:
        try:
            return bool(address and address in ip_network(entry, strict=False))
        except ValueError:
            return False
    match = re.fullmatch(r"(?:\[(.+)\]|([^:]+))(?::(\d+))?|(.*:.*:.*)", entry)
    if entry == "*" or not match or (match[3] and int(match[3]) != port):
        return entry == "*"
    name = match[1] or match[2] or match[4]
    if other := address_of(name):
        return other == address
    name = name[1:] if name.startswith("*.") else name
    return host == name or host.endswith(name if name.startswith(".") else f".{name}")


def address_of(host: str) -> IPv4Address | IPv6Address | None:
    """The IP address that a text is; an IPv4 address if it is one in IPv6's form."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
