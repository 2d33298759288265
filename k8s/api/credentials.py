"""The credentials of a kubeconfig's user, in kubectl's order of precedence. No message shows a possible secret."""

from __future__ import annotations

import base64
import logging
import re
import shutil
import ssl
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kubernetes import config
from kubernetes.config.kube_config import KubeConfigLoader

from k8s.api.contexts import unusable
from k8s.api.errors import unreached

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k8s.api.contexts import Context
    from k8s.api.objects import Object

PROVIDERS = ("oidc", "gcp")  # the auth-providers that the Kubernetes client knows
# Go's net/http refuses the same characters in a header.
FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# The characters that client-go writes into a header's name as they are, besides letters and digits.
NAME_CHARACTERS = "!#$&'*+-.^_`|~"
# What the Kubernetes client says of a plugin's output.
NO_CREDENTIAL = re.compile(r"^(failed to decode process output|argument of type|Invalid RFC3339).*")
LOG_IN = "log in to the cluster again"


def load(context: Context, settings: Any) -> None:
    """Load the server's address, certificates and credentials.

    Args:
        context: of the kubeconfig.
        settings: a kubernetes.client.Configuration.

    Raises:
        LauncherError: 3, a certificate or credentials are missing or wrong, or the plugin that gives them fails.
    """
    refuse_unreadable_certificates(context)
    user = context.user
    if methods := [method for method in ("token", "tokenFile", "username", "password") if method in user]:
        refuse_two_methods(context)
        # As in kubectl, these take precedence over a plugin.
        user = {key: value for key, value in user.items() if key not in ("exec", "auth-provider", *methods)}
    elif "exec" in user:
        refuse_missing_plugin(user["exec"])
    content = {
        "current-context": context.name,
        "contexts": [{"name": context.name, "context": {"cluster": "cluster", "user": "user"}}],
        "clusters": [{"name": "cluster", "cluster": context.cluster}],
        "users": [{"name": "user", "user": user}],
    }
    provider = "auth-provider" in user and f"the auth-provider of the kubeconfig's user {context.user_name!r}"
    if provider and (name := user["auth-provider"].get("name")) not in PROVIDERS:
        raise unreached(f"{provider}, {name!r}, is not supported", "use a credential plugin (exec) instead")
    with logged_errors() as errors:
        try:
            KubeConfigLoader(content, config_base_path="", config_persister=context.save).load_and_set(settings)
        except Exception as error:  # whatever an auth-provider and the libraries below it raise
            if not provider:
                raise
            problem = str(error) if isinstance(error, config.ConfigException) else type(error).__name__
            raise unreached(f"{provider} failed: {' '.join(problem.split()).rstrip('.')}", LOG_IN) from None
    if errors:  # the client logs these, and continues without credentials
        reason = re.sub(r"^exec: |\[Errno \d+\] ", "", errors[0])
        # The client fails so where the plugin fails on a terminal, because the plugin's own words go there.
        reason = reason.replace("'NoneType' object has no attribute 'strip'", "what it printed is above")
        reason = NO_CREDENTIAL.sub("it prints no ExecCredential", reason)
        message = f"the kubeconfig's credential plugin (exec) failed: {' '.join(reason.split()).rstrip('.')}"
        raise unreached(message, LOG_IN)
    if provider and not settings.api_key:
        raise unreached(f"{provider} gives no valid token", LOG_IN)
    if "username" in methods or "password" in methods:
        settings.api_key["BearerToken"] = basic(context.user.get("username", ""), context.user.get("password", ""))
    elif methods:
        settings.api_key["BearerToken"] = f"Bearer {token_of(context)}"


def token_of(context: Context) -> str:
    """A user's token, from its file if it names one.

    Raises:
        LauncherError: 3, the file cannot be read, or is empty.
    """
    if not (path := context.user.get("tokenFile")):
        return str(context.user["token"])
    what = f"the tokenFile {path} of the user {context.user_name!r}"
    try:
        token = Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise unusable(f"{what}: {error.strerror}") from None
    except ValueError:
        raise unusable(f"{what} is not text") from None
    if not token:
        raise unusable(f"{what} is empty")
    return token


def basic(name: str, password: str) -> str:
    """The header of basic authentication (RFC 7617)."""
    return f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"


def impersonation(context: Context) -> Object:
    """The headers by which a user acts as another one; the one for groups has a list of values.

    Raises:
        LauncherError: 3, there are groups or other fields for `as`, but no user; or a value cannot be sent in a
            header.
    """
    user = context.user
    more = [key for key in ("as-groups", "as-uid", "as-user-extra") if key in user]
    if more and "as" not in user:
        raise unusable(f"the user {context.user_name!r} has `{more[0]}`, but not `as`")
    headers: Object = {"Impersonate-User": user.get("as"), "Impersonate-Uid": user.get("as-uid")}
    headers["Impersonate-Group"] = user.get("as-groups")
    for key, values in user.get("as-user-extra", {}).items():
        headers[f"Impersonate-Extra-{quote(str(key), safe=NAME_CHARACTERS)}"] = values
    sent = [user.get("as", ""), user.get("as-uid", ""), *(one for values in headers.values() for one in values or ())]
    refuse_forbidden_characters("".join(sent), f"what `as` contains for the user {context.user_name!r}")
    return {name: value for name, value in headers.items() if value}


def refuse_forbidden_characters(value: str, what: str) -> None:
    """Refuse a value that cannot be sent in a header, without showing it.

    Raises:
        LauncherError: 3.
    """
    if FORBIDDEN.search(value):
        raise unreached(f"{what} contains a line break or another control character", "remove it")


def refuse_two_methods(context: Context) -> None:
    """Refuse a user with a token and a password, as kubectl does.

    Raises:
        LauncherError: 3.
    """
    user = context.user
    if ("token" in user or "tokenFile" in user) and ("username" in user or "password" in user):
        raise unusable(f"the user {context.user_name!r} has a token and a password, and only one of them is allowed")


def refuse_missing_plugin(plugin: Object) -> None:
    """Refuse a credential plugin that is not installed.

    Raises:
        LauncherError: 3, with the kubeconfig's own hint about its installation.
    """
    command = plugin.get("command")
    if isinstance(command, str) and command and shutil.which(command) is None:
        message = f"the kubeconfig's credential plugin {command} (exec) is not installed, or cannot be run"
        hint = " ".join(str(plugin.get("installHint") or "").split()).rstrip(".")
        raise unreached(message, hint or "install it, or correct its path in the kubeconfig")


def refuse_unreadable_certificates(context: Context) -> None:
    """Refuse certificates and keys whose files cannot be read, and embedded ones that are not base64.

    Raises:
        LauncherError: 3.
    """
    owners = {"certificate-authority": context.cluster, "client-certificate": context.user, "client-key": context.user}
    for key, owner in owners.items():
        if data := owner.get(f"{key}-data"):
            try:
                base64.b64decode("".join(data.split()), validate=True)
            except ValueError:
                raise unusable(f"`{key}-data` is not base64") from None
        elif path := owner.get(key):
            try:
                Path(path).read_bytes()
            except OSError as error:
                raise unusable(f"the {key} {path}: {error.strerror}") from None


def check_certificates(settings: Any) -> None:
    """Refuse certificates and keys that cannot be used: retrying does not help.

    Raises:
        LauncherError: 3.
    """
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if settings.ssl_ca_cert:
            tls.load_verify_locations(settings.ssl_ca_cert)
    except (ssl.SSLError, OSError):
        raise unusable("its certificate-authority is not a certificate") from None
    try:
        if settings.cert_file:
            tls.load_cert_chain(settings.cert_file, settings.key_file, password="")
    except (ssl.SSLError, OSError, ValueError):
        problem = "the user's client-certificate and client-key are not a certificate with its key"
        raise unusable(problem) from None


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
