"""The tests of this folder install other projects' programs in the kind cluster that is kubectl's current context.

They run with `make test-systems`, not with `make test-cluster`, because compiling the programs takes minutes. Compiled
programs are kept in ~/.cache/mnist-job, so a second run compiles nothing.
"""

from __future__ import annotations

import pytest

from tests.cluster.access import kind_cluster


@pytest.fixture(scope="session")
def kind() -> str:
    """The name of the kind cluster that is the current context."""
    return kind_cluster("go", "docker", "kind")
