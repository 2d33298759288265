"""Why an image cannot be pulled, where no recorded run shows it: in the words of several container runtimes."""

from __future__ import annotations

import pytest

from k8s.diagnose.images import image_problem

ASKED = 'failed to do request: Head "https://registry.example/v2/mnist-job/manifests/1": '
READING = "reading manifest 1 in registry.example/mnist-job: "


@pytest.mark.parametrize(
    ("problem", "cause"),
    [
        # containerd
        ("image-login", "pull access denied, repository does not exist or may require authorization"),
        ("image-untrusted", f"{ASKED}http: server gave HTTP response to HTTPS client"),
        ("image", f"{ASKED}dial tcp 192.0.2.1:443: connect: connection refused"),
        # CRI-O
        ("image-missing", f"{READING}manifest unknown"),
        ("image-login", f"{READING}unauthorized: authentication required"),
        ("image-architecture", 'no image found in image index for architecture "amd64", variant "", OS "linux"'),
        # cri-dockerd
        ("image-architecture", "no matching manifest for linux/amd64 in the manifest list entries"),
    ],
)
def test_the_problem_and_the_cause(problem: str, cause: str) -> None:
    """The cause does not repeat the image's name."""
    pulling = 'rpc error: code = Unknown desc = failed to pull and unpack image "registry.example/mnist-job:1": '
    resolving = 'failed to resolve reference "registry.example/mnist-job:1": '
    assert image_problem(pulling + resolving + cause) == (problem, cause)


def test_between_two_attempts() -> None:
    """The kubelet may say no more than that it waits."""
    assert image_problem('Back-off pulling image "mnist-job:1"') == ("image", "the pull failed and is retried")
