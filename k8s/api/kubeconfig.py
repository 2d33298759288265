"""How to reach a cluster: by a context of a kubeconfig, or by the service account of the pod that this runs in."""

from __future__ import annotations

import functools
import logging
import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kubernetes import client, config
from yaml import YAMLError

from k8s.api.cluster import Cluster
from k8s.api.errors import unreached

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from k8s.api.objects import Object

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
    options: Any = {"flags": [word for pair in given if pair[1] for word in pair]}
    options |= {"patience_s": patience_s} if patience_s else {}
    default = config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION
    # With a kubeconfig, the cluster around this pod is not the one that the user means.
    if context or kubeconfig or os.environ.get("KUBECONFIG") or Path(default).expanduser().exists():
        chosen = read_context(context, kubeconfig)
        inside = chosen["context"].get("namespace") if chosen else None
        log_in = functools.partial(by_kubeconfig, context, kubeconfig)
        return Cluster(log_in, namespace or inside or "default", say, **options)
    inside = POD_NAMESPACE.read_text(encoding="utf-8").strip() if POD_NAMESPACE.exists() else None
    return Cluster(by_service_account, namespace or inside or "default", say, **options)


def read_context(context: str | None, kubeconfig: str | None) -> Object | None:
    """A context of the kubeconfig, or the current one; None if only its name is known."""
    with kubeconfig_errors():
        try:
            contexts, current = config.list_kube_config_contexts(kubeconfig)
        except config.ConfigException:
            if not context:
                raise
            contexts, current = [], None  # the client lists no contexts if none is the current one
        chosen: Object | None = next((c for c in contexts if c["name"] == context), None) if context else current
        names = ", ".join(c["name"] for c in contexts)
    if chosen is None and contexts:
        raise unreached(f"the kubeconfig has no context {context!r}", f"it has {names}")
    return chosen


def by_kubeconfig(context: str | None, kubeconfig: str | None) -> Any:
    """A client with the kubeconfig's current content; credentials are in it, or come from the plugin that it names."""
    settings = client.Configuration(connection_pool_maxsize=CONNECTIONS)
    with kubeconfig_errors(), logged_errors() as errors:
        api = config.new_client_from_config(kubeconfig, context, client_configuration=settings)
    if errors:  # the client logs these, and continues without credentials
        reason = re.sub(r"^exec: |\[Errno \d+\] ", "", errors[0])
        reason = re.sub(r"^failed to decode process output.*", "it prints no ExecCredential", reason)
        message = f"the kubeconfig's credential plugin (exec) failed: {' '.join(reason.split()).rstrip('.')}"
        raise unreached(message, "check that it is installed, and log in to the cluster again")
    refuse_invalid_address(settings.host)
    settings.refresh_api_key_hook = None  # Api logs in again instead, and reports what is wrong
    return api


def by_service_account() -> Any:
    """A client with the current token of the pod that this runs in."""
    settings = client.Configuration(connection_pool_maxsize=CONNECTIONS)
    try:
        config.load_incluster_config(client_configuration=settings, try_refresh_token=False)
    except (config.ConfigException, OSError) as error:
        reason = str(error).rstrip(".")
        message = f"no cluster to connect to: there is no kubeconfig, and this is not a pod ({reason})"
        raise unreached(message, "set KUBECONFIG, or create ~/.kube/config") from None
    return client.ApiClient(settings)


def refuse_invalid_address(host: str) -> None:
    """Refuse an invalid address of an API server at once: retrying does not help.

    Raises:
        LauncherError: 3.
    """
    try:
        url = urlsplit(host)
        valid = url.scheme in ("http", "https") and url.hostname and not re.search(r"\s", host) and url.port != 0
    except ValueError:  # an invalid port
        valid = False
    if not valid:
        message = f"the kubeconfig's server {host!r} is not the address of an API server"
        raise unreached(message, "write it as https://HOST:PORT")


@contextmanager
def kubeconfig_errors() -> Iterator[None]:
    """Raise what is wrong with a kubeconfig as one sentence."""
    try:
        yield
    # The client does not check a file that is not a kubeconfig at all.
    except (config.ConfigException, YAMLError, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        hint = "check --kubeconfig, $KUBECONFIG or ~/.kube/config"
        raise unreached(f"the kubeconfig cannot be used: {reason}", hint) from None


@contextmanager
def logged_errors() -> Iterator[list[str]]:
    """Collect the errors that are logged, instead of showing them."""
    errors: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: errors.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        yield errors
    finally:
        logging.getLogger().removeHandler(handler)
