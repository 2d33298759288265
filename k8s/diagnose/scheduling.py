"""The scheduler's message about a pod that it cannot place, in plain words. Pure."""

from __future__ import annotations

import re

UNAVAILABLE = re.compile(r"^0/(\d+) nodes are available: (.*?)\.(?:\s|$)")
COUNTED = re.compile(r"(\d+) (.+?)(?=, \d+ |$)")
# Kubernetes' phrases for what rules out a node, what follows `the node has` for each, and the reason. The first match
# counts; {} is what the phrase names.
PHRASES = (
    (r"Insufficient (nvidia\.com/gpu)$", "no free GPU", "gpu"),
    (r"Insufficient (\S+)", "too little {} free", "scheduling"),
    (r"Too many pods", "no room for another pod", "scheduling"),
    (r"volume node affinity conflict|PersistentVolume's node affinity", "no access to the volume", "volume-node"),
    (r"didn't find available persistent volumes", "no free volume for the claim", "claim-unbound"),
    (r"max volume count", "no room for another volume", "scheduling"),
    (r"(was|were) unschedulable", "been cordoned", "scheduling"),
    (r"untolerated taint\(?s?\)?\s*\{([^}]*?):? *\}", "the untolerated taint {}", "scheduling"),
    (r"untolerated taint", "an untolerated taint", "scheduling"),
    (r"didn't match pod affinity rules", "none of the pods that must share a node", "volume-node"),
    (
        r"ReadWriteOncePod access mode",
        "a pod that uses the claim, which only one pod can use at a time",
        "volume-in-use",
    ),
    (r"node affinity/selector", "labels that do not match the node selector", "scheduling"),
)


def parse_message(message: str) -> tuple[str, str]:
    """The reason, a key of PROBLEMS, and the scheduler's message in plain words; unchanged if its form is not known."""
    unavailable = UNAVAILABLE.match(message)
    if not unavailable:
        return "scheduling", message.strip().rstrip(".")
    nodes, details = int(unavailable[1]), unavailable[2]
    if missing := re.search(r'persistentvolumeclaim "(\S+)" not found', details):
        return "claim-missing", f"the claim {missing[1]} does not exist"
    if "unbound immediate PersistentVolumeClaims" in details:
        return "claim-unbound", ""
    counts = [(int(number), *translate(phrase)) for number, phrase in COUNTED.findall(details)]
    if not counts:
        return "scheduling", details
    reasons = [reason for _, _, reason in counts]
    # A GPU or a volume ties a pod to few nodes: what rules out the other nodes matters less.
    reason = next((r for r in ("gpu", "volume-in-use", "volume-node", "claim-unbound") if r in reasons), "scheduling")
    if len(counts) == 1 and counts[0][0] == nodes:
        all_nodes = "the only node has" if nodes == 1 else f"all {nodes} nodes have"
        return reason, f"{all_nodes} {counts[0][1]}"
    parts = [f"{number} {'has' if number == 1 else 'have'} {text}" for number, text, _ in counts]
    return reason, f"of {nodes} node{'s' if nodes > 1 else ''}, {', '.join(parts)}"


def translate(phrase: str) -> tuple[str, str]:
    """What a node has or lacks, in plain words, and the reason."""
    for pattern, text, reason in PHRASES:
        if match := re.search(pattern, phrase):
            return text.format(*match.groups()), reason
    return f"this problem: {phrase}", "scheduling"
