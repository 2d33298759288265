"""Why a node cannot use an image, from the messages of container runtimes (containerd, CRI-O, cri-dockerd). Pure."""

from __future__ import annotations

import re

# By the reason, a key of PROBLEMS: what a message says. A message may match several, and the first match counts. A
# registry that hides its images from strangers says that an image is missing or requires a login. containerd says "not
# found" for a wrong platform.
MESSAGES = {
    "image-architecture": r"no match(ing manifest)? for (platform|linux)|no image found in .* for arch",
    "image-untrusted": r"x509: |server gave HTTP response to HTTPS client",
    "image-login": r"\b401\b|\b403\b|unauthorized|authorization failed|authentication required|access .*denied",
    "image-missing": r"not found|manifest unknown|name unknown",
}
# What the kubelet and the runtimes put before the cause. They are long, and repeat the image's name.
PREFIXES = (
    r'^(Back-off pulling|Failed to pull) image "[^"]*"(: ErrImagePull)?(: |$)',
    r"rpc error: code = \w+ desc = ",
    r'failed to (pull and unpack image|resolve reference|resolve image) "[^"]*": ',
    r"^\S+: (?=not found$)",
)


def image_problem(message: str) -> tuple[str, str]:
    """Why an image cannot be pulled: the reason, a key of PROBLEMS, and the cause in the runtime's words."""
    text = message.strip()
    for prefix in PREFIXES:
        text = re.sub(prefix, "", text)
    reason = next((reason for reason, says in MESSAGES.items() if re.search(says, text, re.IGNORECASE)), "image")
    return reason, text or "the pull failed and is retried"
