"""The way to a cluster: a kubeconfig's context, or the service account of the pod around."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from k8s.cluster import Cluster
from k8s.errors import LauncherError, Status

if TYPE_CHECKING:
    from collections.abc import Callable

POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
CONNECTIONS = 32  # kept open for the threads that ask at the same time; urllib3 complains of each beyond it


def connect(context: str | None, namespace: str | None, say: Callable[[str], None]) -> Cluster:
    """The cluster of the kubeconfig's context, or the one around this pod.

    Args:
        context: a context of the kubeconfig; its present one where None.
        namespace: the context's, or the pod's, where None.
        say: as in Cluster.

    Raises:
        LauncherError: 3, when there is neither, or no such context.
    """
    from kubernetes import client, config  # noqa: PLC0415
    from yaml import YAMLError  # noqa: PLC0415

    # What is no kubeconfig at all meets the client's code unchecked.
    kubeconfig = os.environ.get("KUBECONFIG") or (Path.home() / ".kube" / "config").exists()
    unusable = (config.ConfigException, YAMLError, OSError, LookupError, TypeError, ValueError, AttributeError)
    try:
        try:
            contexts, active = config.list_kube_config_contexts()
        except config.ConfigException:
            if not context:
                raise
            contexts, active = [], None  # the client lists none where none is the present one
        chosen = next((c for c in contexts if c["name"] == context), None) if context else active
        if chosen is None and contexts:
            names = ", ".join(c["name"] for c in contexts)
            raise LauncherError(Status.UNREACHED, f"the kubeconfig has no context {context!r}", f"it has {names}")
        settings = client.Configuration(connection_pool_maxsize=CONNECTIONS)
        api = config.new_client_from_config(context=context, client_configuration=settings)
        inside = chosen["context"].get("namespace") if chosen else None
    except unusable as error:
        why = " ".join(str(error).split()).rstrip(".")
        if context or kubeconfig:  # a pod's own cluster is not the one that was meant
            raise LauncherError(Status.UNREACHED, f"the kubeconfig cannot be used: {why}") from None
        try:
            settings = client.Configuration(connection_pool_maxsize=CONNECTIONS)
            config.load_incluster_config(client_configuration=settings)
            api = client.ApiClient(settings)
            inside = POD_NAMESPACE.read_text(encoding="utf-8").strip()
        except (config.ConfigException, OSError):
            message = f"there is no cluster to talk to: {why}"
            raise LauncherError(Status.UNREACHED, message, "set KUBECONFIG, or make ~/.kube/config") from None
    return Cluster(api, namespace or inside or "default", say)
