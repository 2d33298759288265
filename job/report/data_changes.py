"""What is unusual in a dataset, by itself and compared with the data of an earlier model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from job.dataset.fingerprint import SPLITS
from job.report.rendering import percent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# The limits of what is usual, chosen so that MNIST and random halves of it have no finding.
COUNT = 0.1  # change of the number of examples, as a share of the number before
SHARE = 0.2  # change of a class's share of the examples, as a share of the share before,
POINTS = 0.01  # if it is also a change of at least so much
MEAN = 0.1  # change of the mean of all pixels, in standard deviations of the pixels before
SPREAD = 0.1  # change of their standard deviation, as a share of the one before
SHARED = 0.01  # share of the test images that are training images too

NAMES = {"train": "the training set", "test": "the test set"}


def findings(data: Mapping[str, Any]) -> list[str]:
    """What is unusual in a dataset, a sentence each.

    Args:
        data: what description.describe() returned.
    """
    found = [
        f"{NAMES[split]} has no example of class {name}"
        for split in SPLITS
        for name, count in zip(data["classes"], data[split]["classes"], strict=True)
        if not count
    ]
    found += _differences(NAMES["test"], data["test"], NAMES["train"], data["train"], data["classes"])
    if data["shared"] > SHARED * data["test"]["count"]:
        share = percent(data["shared"] / data["test"]["count"], 1)
        found.append(
            f"{data['shared']:,} test images ({share}) are in the training set too, so the test accuracy is too high"
        )
    return found


def changes(data: Mapping[str, Any], before: Mapping[str, Any], run: str) -> list[str]:
    """The unusual differences of a dataset from that of an earlier run, a sentence each.

    Args:
        data: what description.describe() returned.
        before: the same of the other run's data.
        run: that run's name.
    """
    found = []
    same = data["classes"] == before["classes"]
    if not same:
        found.append(f"the classes are {', '.join(data['classes'])}; those of {run} are {', '.join(before['classes'])}")
    for split, name in NAMES.items():
        new, old = data[split], before[split]
        if abs(new["count"] - old["count"]) > COUNT * old["count"]:
            found.append(f"{name} has {new['count']:,} examples; that of {run} has {old['count']:,}")
        found += _differences(name, new, f"that of {run}", old, data["classes"] if same else [])
    return found


def _differences(
    name: str, new: Mapping[str, Any], other: str, old: Mapping[str, Any], classes: Sequence[str]
) -> list[str]:
    """Where the shares of classes and the pixels of a split differ from those of another one."""
    found = []
    for label, class_name in enumerate(classes):
        share, before = new["classes"][label] / new["count"], old["classes"][label] / old["count"]
        if abs(share - before) > max(SHARE * before, POINTS):
            found.append(f"class {class_name} is {percent(share, 1)} of {name}, and {percent(before, 1)} of {other}")
    if abs(new["mean"] - old["mean"]) > MEAN * old["spread"]:
        found.append(f"the mean pixel of {name} is {new['mean']:.1f}, and {old['mean']:.1f} in {other}")
    if abs(new["spread"] - old["spread"]) > SPREAD * old["spread"]:
        found.append(f"the pixels of {name} spread by {new['spread']:.1f}, and by {old['spread']:.1f} in {other}")
    return found
