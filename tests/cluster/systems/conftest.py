"""The tests of this folder install other projects' programs in the kind cluster that is kubectl's current context.

They run with `make test-systems`, not with `make test-cluster`, because compiling the programs takes minutes. Compiled
programs are kept in ~/.cache/mnist-job, so a second run compiles nothing.
"""

from __future__ import annotations

import shutil

import pytest

from tests.cluster.access import current_kubeconfig


@pytest.fixture(scope="session")
def kind() -> str:
    """The name of the kind cluster that is the current context."""
    [context] = current_kubeconfig()["contexts"]
    if not context["name"].startswith("kind-"):
        pytest.skip(f"the current context, {context['name']}, is not a kind cluster")
    for program in ("go", "docker", "kind"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    return str(context["name"].removeprefix("kind-"))
