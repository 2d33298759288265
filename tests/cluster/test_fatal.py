"""Failures that would repeat: the Job fails after one pod, and `why` explains the cause."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from k8s.render.model import config_map
from k8s.state.names import trainer_of
from tests.cluster.namespace import ROOT, wait_until

if TYPE_CHECKING:
    from k8s.api.objects import Object
    from tests.cluster.namespace import Namespace

# Runs in the reader pod: copies the dataset and flips one bit.
DAMAGE = """
import pathlib, shutil
shutil.copytree("/data", "/output/damaged")
path = next(pathlib.Path("/output/damaged").rglob("test-labels.npy"))
content = bytearray(path.read_bytes())
content[len(content) // 2] ^= 1
path.chmod(0o644)
path.write_bytes(content)
"""
BUG = "\n\ndef init(seed):\n    raise ValueError('no such seed')\n"


def assert_fails(namespace: Namespace, job: Object, code: int, sentence: str) -> None:
    """The Job fails with a code after one pod of each rank; sentence is a regular expression for `why`."""
    name = job["metadata"]["name"]
    namespace.send(job)
    failed = namespace.wait_until_failed(name)
    [condition] = [c for c in failed["status"]["conditions"] if c["type"] in ("FailureTarget", "Failed")][:1]
    assert condition["reason"] == "PodFailurePolicy", condition
    assert f"exit code {code} " in condition["message"]
    assert_created(namespace, failed, job["spec"]["completions"])
    output = namespace.why(name)
    assert re.search(sentence, output), output


def assert_created(namespace: Namespace, job: Object, count: int) -> None:
    """So many pods were created for a Job, including deleted ones. The events may come late."""

    def created() -> int:
        fields = f"involvedObject.uid={job['metadata']['uid']},reason=SuccessfulCreate"
        return len(namespace.cluster.select("Event", fields=fields))

    wait_until(lambda: created() >= count, f"the events of {count} pods")
    assert created() == count


def with_arguments(job: Object, *arguments: str) -> Object:
    """Append arguments that the launcher would refuse to a Job's trainer; returns the Job."""
    trainer_of(job["spec"]["template"])["args"] += arguments
    return job


def mount_of(job: Object) -> Object:
    """The mount of the output volume."""
    mounts = trainer_of(job["spec"]["template"])["volumeMounts"]
    mount: Object = next(mount for mount in mounts if mount["name"] == "output")
    return mount


def test_fatal_codes(shared: Namespace) -> None:
    """Each fatal exit code fails the Job at once."""
    usage = with_arguments(shared.render("usage"), "--epochs=0")
    assert_fails(shared, usage, 64, r"worker 0 exited with 64 \(usage\): --epochs must be at least 1, not 0")

    missing = with_arguments(shared.render("missing"), "--data=/nowhere")
    assert_fails(shared, missing, 66, r"worker 0 exited with 66 \(dataset-missing\): .*/nowhere")

    shared.kubectl("exec", shared.reader(), "--", "python", "-c", DAMAGE)
    damaged = with_arguments(shared.render("damaged"), "--data=/output/damaged")
    assert_fails(shared, damaged, 65, r"worker 0 exited with 65 \(dataset-damaged\): ")

    read_only = shared.render("read-only")
    mount_of(read_only)["readOnly"] = True
    assert_fails(shared, read_only, 73, r"worker 0 exited with 73 \(output-not-writable\): .*Read-only file system")

    infinite = shared.render("infinite", "--learning-rate=1e38", "--epochs=1", workers=2)
    assert_fails(shared, infinite, 76, r"worker [01] exited with 76 \(loss-not-finite\): ")

    rejected = shared.render("rejected", "--epochs=1", "--min-accuracy=0.99")
    assert_fails(
        shared, rejected, 69, r"worker 0 exited with 69 \(rejected\): accuracy 0\.\d+ is below the minimum 0\.99"
    )


def test_a_bug(shared: Namespace) -> None:
    """An exception in the model of --model fails the Job with 70, and `why` names file and line."""
    source = (ROOT / "job" / "model.py").read_text(encoding="utf-8") + BUG
    shared.cluster.create(config_map(source))
    place = rf"/app/job/model\.py:{source.count(chr(10))}"
    sentence = rf"worker 0 exited with 70 \(bug\): ValueError at {place}: no such seed"
    assert_fails(shared, shared.render("bug", model=source), 70, sentence)


def test_out_of_memory(shared: Namespace) -> None:
    """`why` explains a memory limit that is too small, whether the kernel killed the trainer or the whole pod."""
    job = shared.render("small", memory="300Mi")
    shared.send(job)
    output = wait_until(lambda: text if "out-of-memory" in (text := shared.why("small")) else "", "the cause")
    assert re.search(
        r"worker 0 exited with (71|137) \(out-of-memory\): the kernel killed the (trainer|worker)\b", output
    )
    assert "mnist-job retry small --memory 600Mi" in output
    if "exited with 71" in output:
        assert_created(shared, shared.wait_until_failed("small"), 1)


def test_other_settings(shared: Namespace) -> None:
    """A run of another Job fails with 64; continued with other settings, it fails with 78 and names both values."""
    shared.submit("run", "--epochs=2000", "--evaluate-every=0", workers=1)
    shared.wait_for_step("run", 1000)
    shared.kubectl("delete", "job", "run", "--wait=true", "--cascade=foreground")
    wait_until(lambda: not shared.pods("run"), "the end of the pods")
    taken = shared.render("run", "--epochs=2000", "--evaluate-every=0")
    assert_fails(shared, taken, 64, r"worker 0 exited with 64 \(run-taken\): run 'run' belongs to another Job, ")
    shared.kubectl("delete", "job", "run", "--wait=true", "--cascade=foreground")
    wait_until(lambda: not shared.pods("run"), "the end of the pods")
    other = shared.render("run", "--epochs=2", "--continue")
    assert_fails(
        shared,
        other,
        78,
        r"worker 0 exited with 78 \(other-settings\): run 'run' has other settings: --epochs was 2000 and is now 2",
    )
