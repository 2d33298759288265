"""The scheduler's messages, as its source has them, in plain words."""

from __future__ import annotations

import pytest

from k8s.diagnose.scheduling import parse_message

REST = " no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ("3 Insufficient cpu.", ("scheduling", "all 3 nodes have too little cpu free")),
        (
            "1 Insufficient cpu, 2 Insufficient memory.",
            ("scheduling", "of 3 nodes, 1 has too little cpu free, 2 have too little memory free"),
        ),
        (
            "1 Insufficient nvidia.com/gpu, 2 node(s) had untolerated taint(s).",
            ("gpu", "of 3 nodes, 1 has no free GPU, 2 have an untolerated taint"),
        ),
        (
            "1 Too many pods, 2 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }.",
            (
                "scheduling",
                (
                    "of 3 nodes, 1 has no room for another pod, 2 have the untolerated taint "
                    "node-role.kubernetes.io/control-plane"
                ),
            ),
        ),
        (
            "1 Insufficient cpu, 2 node(s) didn't match PersistentVolume's node affinity.",
            ("volume-node", "of 3 nodes, 1 has too little cpu free, 2 have no access to the volume"),
        ),
        (
            "1 node(s) were unschedulable, 2 node(s) had volume node affinity conflict.",
            ("volume-node", "of 3 nodes, 1 has been cordoned, 2 have no access to the volume"),
        ),
        (
            "1 Insufficient cpu, 2 node(s) didn't match pod affinity rules.",
            (
                "volume-node",
                "of 3 nodes, 1 has too little cpu free, 2 have none of the pods that must share a node",
            ),
        ),
        (
            "3 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode.",
            ("volume-in-use", "all 3 nodes have a pod that uses the claim, which only one pod can use at a time"),
        ),
        (
            "3 node(s) had no available disk.",
            ("scheduling", "all 3 nodes have this problem: node(s) had no available disk"),
        ),
        (
            'persistentvolumeclaim "output" not found. not found',
            ("claim-missing", "the claim output does not exist"),
        ),
        ("pod has unbound immediate PersistentVolumeClaims. not found", ("claim-unbound", "")),
        ("pod affinity terms conflict.", ("scheduling", "pod affinity terms conflict")),
    ],
)
def test_each_phrase(message: str, problem: tuple[str, str]) -> None:
    """How many nodes there are, what rules out each, and the reason."""
    assert parse_message(f"0/3 nodes are available: {message}{REST}") == problem


def test_one_node() -> None:
    """A single node is not counted."""
    found = parse_message("0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No.")
    assert found == ("scheduling", "the only node has too little cpu free")


def test_an_unknown_message_is_unchanged() -> None:
    """A message of unknown form is shown as it is."""
    message = "running PreBind plugin: timed out."
    assert parse_message(message) == ("scheduling", "running PreBind plugin: timed out")
