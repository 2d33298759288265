"""The scheduler's sentence on a pod for which it finds no node, made plain. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

UNAVAILABLE = re.compile(r"^0/(\d+) nodes are available: (.*?)\.(?:\s|$)")
COUNTED = re.compile(r"(\d+) (.+?)(?=, \d+ |$)")
# Kubernetes' words for why a node is no place for a pod, each with ours; the first that fits. {} is what is short.
WORDS = (
    (r"Insufficient (nvidia\.com/gpu)$", "no GPU free", "gpu"),
    (r"Insufficient (\S+)", "too little {} free", "scheduling"),
    (r"Too many pods", "no room for one more pod", "scheduling"),
    (r"volume node affinity conflict|PersistentVolume's node affinity", "no way to its volume", "volume-node"),
    (r"didn't find available persistent volumes", "no free volume for its claim", "claim-unbound"),
    (r"max volume count", "no room for one more volume", "scheduling"),
    (r"(was|were) unschedulable", "been cordoned", "scheduling"),
    (r"untolerated taint\(?s?\)?\s*\{([^}]*?):? *\}", "the taint {}, which it does not tolerate", "scheduling"),
    (r"untolerated taint", "a taint that it does not tolerate", "scheduling"),
    (r"didn't match pod affinity rules", "none of the run's other workers, with which it must be", "volume-node"),
    (r"node affinity/selector", "other labels than it selects nodes by", "scheduling"),
)


@dataclass(frozen=True)
class SchedulingProblem:
    """What the scheduler says: the reason as in PROBLEMS, and the rest of a sentence on a worker that has no node."""

    reason: str
    text: str


def parse_message(message: str) -> SchedulingProblem:
    """The scheduler's sentence in plain words; as it is, where it is none of the known."""
    found = UNAVAILABLE.match(message)
    if not found:
        return SchedulingProblem("scheduling", message.strip().rstrip("."))
    if missing := re.search(r'persistentvolumeclaim "(\S+)" not found', found[2]):
        return SchedulingProblem("claim-missing", f"there is no claim {missing[1]}")
    if "unbound immediate PersistentVolumeClaims" in found[2]:
        return SchedulingProblem("claim-unbound", "")
    counts = [(int(number), *named(words)) for number, words in COUNTED.findall(found[2])]
    if not counts:
        return SchedulingProblem("scheduling", found[2])
    reasons = [reason for _, _, reason in counts]
    # A GPU, or a volume, binds a pod to few nodes: what is the matter with the others matters less.
    reason = next((r for r in ("gpu", "volume-node", "claim-unbound") if r in reasons), "scheduling")
    nodes = int(found[1])
    if len(counts) == 1 and counts[0][0] == nodes:
        all_of_them = "the only node has" if nodes == 1 else f"all {nodes} nodes have"
        return SchedulingProblem(reason, f"{all_of_them} {counts[0][1]}")
    parts = [f"{number} {'has' if number == 1 else 'have'} {words}" for number, words, _ in counts]
    return SchedulingProblem(reason, f"of {nodes} node{'s' if nodes > 1 else ''}, {', '.join(parts)}")


def named(words: str) -> tuple[str, str]:
    """What a node has or lacks, in our words, and the reason as in PROBLEMS."""
    for pattern, ours, reason in WORDS:
        if found := re.search(pattern, words):
            return ours.format(*found.groups()), reason
    return f"this against it: {words}", "scheduling"
