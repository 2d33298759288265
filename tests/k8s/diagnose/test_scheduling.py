"""The scheduler's sentences, as its source has them, in plain words."""

from __future__ import annotations

import pytest

from k8s.diagnose.scheduling import SchedulingProblem, parse_message

REST = " no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("3 Insufficient cpu.", SchedulingProblem("scheduling", "all 3 nodes have too little cpu free")),
        (
            "1 Insufficient cpu, 2 Insufficient memory.",
            SchedulingProblem("scheduling", "of 3 nodes, 1 has too little cpu free, 2 have too little memory free"),
        ),
        (
            "1 Insufficient nvidia.com/gpu, 2 node(s) had untolerated taint(s).",
            SchedulingProblem("gpu", "of 3 nodes, 1 has no GPU free, 2 have a taint that it does not tolerate"),
        ),
        (
            "1 Too many pods, 2 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }.",
            SchedulingProblem(
                "scheduling",
                "of 3 nodes, 1 has no room for one more pod, "
                "2 have the taint node-role.kubernetes.io/control-plane, which it does not tolerate",
            ),
        ),
        (
            "1 Insufficient cpu, 2 node(s) didn't match PersistentVolume's node affinity.",
            SchedulingProblem("volume-node", "of 3 nodes, 1 has too little cpu free, 2 have no way to its volume"),
        ),
        (
            "1 node(s) were unschedulable, 2 node(s) had volume node affinity conflict.",
            SchedulingProblem("volume-node", "of 3 nodes, 1 has been cordoned, 2 have no way to its volume"),
        ),
        (
            "1 Insufficient cpu, 2 node(s) didn't match pod affinity rules.",
            SchedulingProblem(
                "volume-node",
                "of 3 nodes, 1 has too little cpu free, 2 have none of the run's other workers, with which it must be",
            ),
        ),
        (
            "3 node(s) had no available disk.",
            SchedulingProblem("scheduling", "all 3 nodes have this against it: node(s) had no available disk"),
        ),
        (
            'persistentvolumeclaim "output" not found. not found',
            SchedulingProblem("claim-missing", "there is no claim output"),
        ),
        ("pod has unbound immediate PersistentVolumeClaims. not found", SchedulingProblem("claim-unbound", "")),
        ("pod affinity terms conflict.", SchedulingProblem("scheduling", "pod affinity terms conflict")),
    ],
)
def test_each_word_of_the_schedulers(message: str, told: SchedulingProblem) -> None:
    """How many nodes there are, what each has against the pod, and of what kind the trouble is."""
    assert parse_message(f"0/3 nodes are available: {message}{REST}") == told


def test_one_node() -> None:
    """Where there is one node, it is called so."""
    said = parse_message("0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No.")
    assert said == SchedulingProblem("scheduling", "the only node has too little cpu free")


def test_another_sentence_is_left_as_it_is() -> None:
    """What is none of the known is shown in the scheduler's own words."""
    message = "running PreBind plugin: timed out."
    assert parse_message(message) == SchedulingProblem("scheduling", "running PreBind plugin: timed out")
