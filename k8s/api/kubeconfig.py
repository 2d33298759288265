"""How to reach a cluster: by a context of a kubeconfig, or by the service account of the pod that this runs in."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import urllib3
import urllib3.connection
from kubernetes import client, config
from urllib3.util.ssl_ import create_urllib3_context

from k8s.api import contexts, proxy
from k8s.api.cluster import Cluster
from k8s.api.credentials import basic, check_certificates, impersonation, load, refuse_forbidden_characters
from k8s.api.errors import unreached

if TYPE_CHECKING:
    from collections.abc import Callable

    from k8s.api.contexts import Context

POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
CONNECTIONS = 64  # kept open for concurrent requests; urllib3 warns about each one beyond them


def connect(
    context: str | None,
    namespace: str | None,
    say: Callable[[str], None],
    *,
    kubeconfig: str | None = None,
    patience_s: float | None = None,
) -> Cluster:
    """The cluster of the kubeconfig's context; without a kubeconfig, the one that this process runs in.

    Args:
        context: a context of the kubeconfig; None for the current one.
        namespace: None for the context's, or the pod's.
        say: as in Cluster.
        kubeconfig: the file; None for $KUBECONFIG or ~/.kube/config.
        patience_s: as in Cluster; None for the default.

    Raises:
        LauncherError: 3, there is no cluster or no such context, or the kubeconfig lacks an address or credentials.
    """
    given = (("--context", context), ("--kubeconfig", kubeconfig))
    options: Any = {"flags": [word for pair in given if pair[1] for word in pair], "patience_s": patience_s}
    # With a kubeconfig, the cluster around this pod is not the one that the user means.
    if (paths := contexts.files(kubeconfig)) or context:
        inside = contexts.read_context(context, paths).namespace

        def log_in() -> Any:
            return by_context(contexts.read_context(context, paths))

        return Cluster(log_in, namespace or inside or "default", say, **options)
    inside = POD_NAMESPACE.read_text(encoding="utf-8").strip() if POD_NAMESPACE.exists() else ""
    return Cluster(by_service_account, namespace or inside or "default", say, **options)


def by_context(context: Context) -> Any:
    """A client with a context's credentials; they are in the kubeconfig, or come from the plugin that it names.

    Raises:
        LauncherError: 3, an address, a certificate or credentials are missing or wrong.
    """
    refuse_invalid_address(context.cluster.get("server", ""))
    settings = client.Configuration(connection_pool_maxsize=CONNECTIONS)
    load(context, settings)
    check_certificates(settings)
    api = client_of(settings, context.cluster.get("proxy-url", ""), f"the kubeconfig's user {context.user_name!r}")
    api.default_headers.update(impersonation(context))
    return api


def by_service_account() -> Any:
    """A client with the current token of the pod that this runs in."""
    settings = client.Configuration(connection_pool_maxsize=CONNECTIONS)
    try:
        config.load_incluster_config(client_configuration=settings, try_refresh_token=False)
    except (config.ConfigException, OSError, ValueError) as error:
        reason = str(error).rstrip(".") if isinstance(error, config.ConfigException) else "its token cannot be read"
        message = f"no cluster to connect to: there is no kubeconfig, and this is not a pod ({reason})"
        raise unreached(message, "set KUBECONFIG, or create ~/.kube/config") from None
    settings.api_key = {name: token.strip() for name, token in settings.api_key.items()}
    return client_of(settings, "", "the pod's service account")


def client_of(settings: Any, proxy_url: str, owner: str) -> Any:
    """A client with these settings.

    Args:
        settings: a kubernetes.client.Configuration.
        proxy_url: the kubeconfig's; empty for the environment's proxy, if any.
        owner: of the credentials, for the sentence of an error.
    """
    for value in settings.api_key.values():
        refuse_forbidden_characters(value, f"the token or the password of {owner}")
    settings.refresh_api_key_hook = None  # Api logs in again instead, and reports what is wrong
    settings.proxy, settings.no_proxy = proxy.proxy_of(settings.host, proxy_url) or None, None
    if settings.proxy and not settings.proxy.startswith("socks"):
        url = urlsplit(settings.proxy)
        if url.username:
            authorization = basic(unquote(url.username), unquote(url.password or ""))
            settings.proxy_headers = {"proxy-authorization": authorization}
    if not settings.verify_ssl:  # the kubeconfig asks for this, and kubectl does not warn either
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    return client.ApiClient(settings)


def _lenient_context(**given: Any) -> ssl.SSLContext:
    context = create_urllib3_context(**given)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


# From Python 3.13 on, urllib3 refuses certificates that lack fields of RFC 5280. Those of many clusters do, and kubectl
# accepts them. A context given to urllib3 instead would be shared by threads, and would not know the system's CAs.
urllib3.connection.create_urllib3_context = _lenient_context  # type: ignore[attr-defined, assignment]


def refuse_invalid_address(host: str) -> None:
    """Refuse an invalid address of an API server at once: retrying does not help.

    Raises:
        LauncherError: 3.
    """
    try:
        url = urlsplit(host)
        valid = url.scheme in ("http", "https") and url.hostname and not re.search(r"\s", host) and url.port != 0
        valid = valid and "@" not in url.netloc
    except ValueError:  # an invalid port
        valid = False
    if not valid:
        message = f"the kubeconfig's server {proxy.without_password(host)!r} is not the address of an API server"
        raise unreached(message, "write it as https://HOST:PORT")
