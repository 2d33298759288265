"""The way to a cluster: a kubeconfig's context, or the service account of the pod around."""

from __future__ import annotations

import functools
import logging
import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from k8s.api.cluster import Cluster
from k8s.api.errors import LauncherError, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from k8s.api.objects import Object

POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
CONNECTIONS = 64  # kept open for the threads that ask at the same time; urllib3 complains of each beyond it


def connect(context: str | None, namespace: str | None, say: Callable[[str], None]) -> Cluster:
    """The cluster of the kubeconfig's context, or the one around this pod.

    Args:
        context: a context of the kubeconfig; its present one where None.
        namespace: the context's, or the pod's, where None.
        say: as in Cluster.

    Raises:
        LauncherError: 3, when there is neither, or no such context, or it gives no address or no credentials.
    """
    from kubernetes import config  # noqa: PLC0415

    places = config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION
    # A pod's own cluster is not the one that was meant where there is a kubeconfig.
    if context or os.environ.get("KUBECONFIG") or Path(places).expanduser().exists():
        chosen = context_of_kubeconfig(context)
        inside = chosen["context"].get("namespace") if chosen else None
        return Cluster(functools.partial(by_kubeconfig, context), namespace or inside or "default", say)
    inside = POD_NAMESPACE.read_text(encoding="utf-8").strip() if POD_NAMESPACE.exists() else None
    return Cluster(by_service_account, namespace or inside or "default", say)


def context_of_kubeconfig(context: str | None) -> Object | None:
    """A context of the kubeconfig; None where only its name is known."""
    from kubernetes import config  # noqa: PLC0415

    with usable():
        try:
            contexts, active = config.list_kube_config_contexts()
        except config.ConfigException:
            if not context:
                raise
            contexts, active = [], None  # the client lists none where none is the present one
        chosen: Object | None = next((c for c in contexts if c["name"] == context), None) if context else active
        names = ", ".join(c["name"] for c in contexts)
    if chosen is None and contexts:
        raise LauncherError(Status.UNREACHED, f"the kubeconfig has no context {context!r}", f"it has {names}")
    return chosen


def by_kubeconfig(context: str | None) -> Any:
    """A client with what the kubeconfig says now; the credentials are its own, or come from the plugin it names."""
    from kubernetes import client, config  # noqa: PLC0415

    settings = client.Configuration(connection_pool_maxsize=CONNECTIONS)
    with usable(), logged_errors() as errors:
        api = config.new_client_from_config(context=context, client_configuration=settings)
    if errors:  # which the client only logs, to go on as nobody
        why = re.sub(r"^exec: |\[Errno \d+\] ", "", errors[0])
        why = re.sub(r"^failed to decode process output.*", "it prints no ExecCredential", why)
        message = f"the kubeconfig's credential plugin (exec) fails: {' '.join(why.split()).rstrip('.')}"
        raise LauncherError(Status.UNREACHED, message, "see that it is installed, and log in to the cluster again")
    refuse_no_address(settings.host)
    settings.refresh_api_key_hook = None  # log_in again does it, and tells what is wrong
    return api


def by_service_account() -> Any:
    """A client with the token that the pod around has now."""
    from kubernetes import client, config  # noqa: PLC0415

    settings = client.Configuration(connection_pool_maxsize=CONNECTIONS)
    try:
        config.load_incluster_config(client_configuration=settings, try_refresh_token=False)
    except (config.ConfigException, OSError) as error:
        why = str(error).rstrip(".")
        message = f"there is no cluster to talk to: there is no kubeconfig, and none around this process ({why})"
        raise LauncherError(Status.UNREACHED, message, "set KUBECONFIG, or make ~/.kube/config") from None
    return client.ApiClient(settings)


def refuse_no_address(host: str) -> None:
    """Refuse what cannot be a server's address, which trying again does not mend.

    Raises:
        LauncherError: 3.
    """
    try:
        found = urlsplit(host)
        right = found.scheme in ("http", "https") and found.hostname and not re.search(r"\s", host)
        right = right and found.port != 0
    except ValueError:  # a port that is none
        right = False
    if not right:
        message = f"the kubeconfig's server {host!r} is no address of an API server"
        raise LauncherError(Status.UNREACHED, message, "write it as https://HOST:PORT")


@contextmanager
def usable() -> Iterator[None]:
    """Have what is wrong with a kubeconfig told in a sentence."""
    from kubernetes import config  # noqa: PLC0415
    from yaml import YAMLError  # noqa: PLC0415

    try:
        yield
    # What is no kubeconfig at all meets the client's code unchecked.
    except (config.ConfigException, YAMLError, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        why = " ".join(str(error).split()).rstrip(".")
        hint = "see KUBECONFIG, or ~/.kube/config"
        raise LauncherError(Status.UNREACHED, f"the kubeconfig cannot be used: {why}", hint) from None


@contextmanager
def logged_errors() -> Iterator[list[str]]:
    """Gives the errors that are logged meanwhile, and shows none."""
    errors: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: errors.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        yield errors
    finally:
        logging.getLogger().removeHandler(handler)
