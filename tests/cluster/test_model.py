"""A model in a file: trained from its ConfigMap, by every Job of a run and by a schedule, and kept with the result."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from k8s.render.model import config_map
from k8s.state.names import model_of
from tests.cluster.namespace import ROOT, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.namespace import Namespace

SOURCE = (ROOT / "examples" / "two_layer_fashion_mnist" / "model.py").read_text(encoding="utf-8") + "\n# mine\n"
LONG = ("--epochs=100000", "--evaluate-every=0", "--checkpoint-every=100")


def owners(namespace: Namespace, name: str) -> set[str] | None:
    """The kinds and names of a ConfigMap's owners; None if it does not exist."""
    found = namespace.cluster.get("ConfigMap", name)
    if found is None:
        return None
    return {f"{one['kind']} {one['name']}" for one in found["metadata"].get("ownerReferences", [])}


def test_a_model_in_a_file(shared: Namespace, tmp_path: Path) -> None:
    """`submit --model` and `retry` train it, `fetch` copies its source, and its ConfigMap is deleted with its Jobs."""
    file = tmp_path / "mine.py"
    file.write_text(SOURCE, encoding="utf-8")
    name = config_map(SOURCE)["metadata"]["name"]
    shared.submit("own", "--epochs=1", "--learning-rate=0.2", flags=[f"--model={file}"])
    file.unlink()
    assert owners(shared, name) == {"Job own"}
    shared.wait_until_published("own")
    shared.launcher("fetch", "own", str(tmp_path))
    assert (tmp_path / "own" / "model.py").read_text(encoding="utf-8") == SOURCE

    file.write_text(SOURCE, encoding="utf-8")
    shared.submit("again", *LONG, flags=[f"--model={file}"], workers=1)
    assert owners(shared, name) == {"Job own", "Job again"}
    shared.wait_for_step("again", 100)
    shared.launcher("cancel", "again")
    shared.launcher("retry", "again")
    assert model_of(shared.job("again")["spec"]["template"]) == name
    wait_until(lambda: owners(shared, name) == {"Job own", "Job again-2"}, "the owners of the model")
    step = shared.wait_for_step("again", 200).step or 0
    assert step >= 200
    shared.launcher("cancel", "again")

    shared.launcher("schedule", "@yearly", f"--model={file}", *shared.submission("yearly", "--epochs=1"))
    assert owners(shared, name) == {"Job own", "Job again-2", "CronJob yearly"}
    shared.launcher("cancel", "yearly")
    wait_until(lambda: owners(shared, name) == {"Job own", "Job again-2"}, "the end of the schedule")
    shared.kubectl("delete", "job", "own", "again-2")
    wait_until(lambda: owners(shared, name) is None, "the end of the model")


def test_a_model_that_is_gone(shared: Namespace, tmp_path: Path) -> None:
    """`retry` refuses a run whose ConfigMap was deleted, and names the command that makes it again."""
    file = tmp_path / "mine.py"
    file.write_text(SOURCE, encoding="utf-8")
    name = config_map(SOURCE)["metadata"]["name"]
    shared.submit("gone", *LONG, flags=[f"--model={file}"], workers=1)
    shared.launcher("cancel", "gone")
    shared.kubectl("delete", "configmap", name)
    output = shared.launcher("retry", "gone", code=2)
    command = f"kubectl create configmap {name} -n {shared.name} --from-file=model.py=FILE"
    assert command in output
    shared.kubectl("create", "configmap", name, f"--from-file=model.py={file}")
    shared.launcher("retry", "gone")
    assert json.loads(shared.kubectl("get", "job", "gone-2", "-o", "json"))["spec"]["completions"] == 1
    shared.launcher("cancel", "gone")
