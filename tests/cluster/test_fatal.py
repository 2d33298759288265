"""A failure that would repeat fails the Job at once, after one pod; `why` explains it in a sentence."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from k8s.state.names import trainer_of
from tests.cluster.lab import until

if TYPE_CHECKING:
    from k8s.api.objects import Object
    from tests.cluster.lab import Lab

# In the reader's pod: copy the dataset with one bit flipped.
DAMAGE = """
import pathlib, shutil
shutil.copytree("/data", "/output/damaged")
path = next(pathlib.Path("/output/damaged").rglob("test-labels.npy"))
content = bytearray(path.read_bytes())
content[len(content) // 2] ^= 1
path.chmod(0o644)
path.write_bytes(content)
"""
BUG = "def init(seed):\n    raise ValueError('no such seed')\n"


def fails(lab: Lab, job: Object, code: int, sentence: str) -> None:
    """The Job fails with a code after one pod of each rank; sentence is a regular expression for what `why` says."""
    name = job["metadata"]["name"]
    lab.send(job)
    failed = lab.until_failed(name)
    [condition] = [c for c in failed["status"]["conditions"] if c["type"] in ("FailureTarget", "Failed")][:1]
    assert condition["reason"] == "PodFailurePolicy", condition
    assert f"exit code {code} " in condition["message"]
    assert made(lab, failed) == job["spec"]["completions"]
    said = lab.why(name)
    assert re.search(sentence, said), said


def made(lab: Lab, job: Object) -> int:
    """How many pods were created for a Job, including deleted ones."""
    uid = job["metadata"]["uid"]
    return len(lab.cluster.select("Event", fields=f"involvedObject.uid={uid},reason=SuccessfulCreate"))


def with_arguments(job: Object, *arguments: str) -> Object:
    """A Job whose trainer has more arguments, which the launcher would refuse."""
    trainer_of(job["spec"]["template"])["args"] += arguments
    return job


def mount_of(job: Object) -> Object:
    """The mount of the output."""
    mounts = trainer_of(job["spec"]["template"])["volumeMounts"]
    found: Object = next(mount for mount in mounts if mount["name"] == "output")
    return found


def test_fatal_codes(shared: Lab) -> None:
    """Each fatal exit code, with one worker and with two."""
    usage = with_arguments(shared.render("usage"), "--epochs=0")
    fails(shared, usage, 64, r"worker 0 exited with 64 \(usage\): --epochs must be at least 1, not 0")

    missing = with_arguments(shared.render("missing"), "--data=/nowhere")
    fails(shared, missing, 66, r"worker 0 exited with 66 \(dataset-missing\): .*/nowhere")

    shared.kubectl("exec", shared.reader(), "--", "python", "-c", DAMAGE)
    damaged = with_arguments(shared.render("damaged"), "--data=/output/damaged")
    fails(shared, damaged, 65, r"worker 0 exited with 65 \(dataset-damaged\): ")

    read_only = shared.render("read-only")
    mount_of(read_only)["readOnly"] = True
    fails(shared, read_only, 73, r"worker 0 exited with 73 \(output-not-writable\): .*Read-only file system")

    infinite = shared.render("infinite", "--learning-rate=1e38", "--epochs=1", workers=2)
    fails(shared, infinite, 76, r"worker [01] exited with 76 \(loss-not-finite\): ")

    rejected = shared.render("rejected", "--epochs=1", "--min-accuracy=0.99")
    fails(shared, rejected, 69, r"worker 0 exited with 69 \(rejected\): accuracy 0\.\d+ is below the minimum 0\.99")


def test_a_bug(shared: Lab) -> None:
    """A model.py that raises: 70 at once, with the file and line."""
    content: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "model"}}
    shared.kubectl("create", "-f", "-", given=json.dumps({**content, "data": {"model.py": BUG}}))
    job = shared.render("bug")
    template = job["spec"]["template"]
    template["spec"]["volumes"].append({"name": "model", "configMap": {"name": "model"}})
    mount = {"name": "model", "mountPath": "/app/job/model.py", "subPath": "model.py"}
    trainer_of(template)["volumeMounts"].append(mount)
    fails(shared, job, 70, r"worker 0 exited with 70 \(bug\): ValueError at /app/job/model\.py:2: no such seed")


def test_out_of_memory(shared: Lab) -> None:
    """A memory limit that is too small is named, whether the kernel kills the trainer or the whole pod."""
    job = shared.render("small", memory="300Mi")
    shared.send(job)
    said = until(lambda: told if "out-of-memory" in (told := shared.why("small")) else "", "the cause")
    assert re.search(r"worker 0 exited with (71|137) \(out-of-memory\): the kernel killed the (trainer|worker) ", said)
    assert "mnist-job retry small --memory 600Mi" in said
    if "exited with 71" in said:
        assert made(shared, shared.until_failed("small")) == 1


def test_other_settings(shared: Lab) -> None:
    """Continuing a run with other settings: 78, with both values. The name of another Job's run: 64."""
    shared.submit("run", "--epochs=2000", "--evaluate-every=0", workers=1)
    shared.until_step("run", 1000)
    shared.kubectl("delete", "job", "run", "--wait=true", "--cascade=foreground")
    until(lambda: not shared.pods("run"), "the pods' end")
    taken = shared.render("run", "--epochs=2000", "--evaluate-every=0")
    fails(shared, taken, 64, r"worker 0 exited with 64 \(run-taken\): run 'run' belongs to another Job, ")
    shared.kubectl("delete", "job", "run", "--wait=true", "--cascade=foreground")
    until(lambda: not shared.pods("run"), "the pods' end")
    other = shared.render("run", "--epochs=2", "--continue")
    fails(
        shared,
        other,
        78,
        r"worker 0 exited with 78 \(other-settings\): run 'run' has other settings: epochs was 2000 and is now 2",
    )
