"""Flags and manifests become exactly the objects that are sent; wrong flags are refused with a sentence."""

from __future__ import annotations

import copy
import json
import os
import shutil
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from job import __version__
from job.errors import Exit, JobError
from k8s.render import render
from k8s.render.kustomize import MANIFESTS, kustomize
from k8s.render.render import GPU
from k8s.render.submission import IDENTITY, Submission
from k8s.state.names import CLAIM, least_workers, trainer_of

if TYPE_CHECKING:
    from pathlib import Path

    from k8s.api.objects import Object

# The output on no claim.
NO_CLAIM = {
    "target": {"kind": "Job"},
    "patch": '[{"op": "replace", "path": "/spec/template/spec/volumes/0", "value": {"name": "output"}}]',
}
NAME = "app.kubernetes.io~1name"


def replacing(path: str, value: str) -> Object:
    """A patch of the Job."""
    return {"target": {"kind": "Job"}, "patch": json.dumps([{"op": "replace", "path": path, "value": value}])}


REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
LABELS = {
    "app.kubernetes.io/name": "mnist-job",
    "app.kubernetes.io/component": "trainer",
    "app.kubernetes.io/part-of": "mnist-job",
    "app.kubernetes.io/managed-by": "mnist-job",
    "app.kubernetes.io/version": __version__,
    "app.kubernetes.io/instance": "digits",
}
USER = 65532
SMALL = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
POD_USER = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}


def from_field(path: str) -> Object:
    """A variable's value that is a field of its pod."""
    return {"fieldRef": {"fieldPath": path}}


def probe(period_s: int, timeout_s: int, failures: int) -> Object:
    """A probe of the supervisor."""
    times = {"periodSeconds": period_s, "timeoutSeconds": timeout_s, "failureThreshold": failures}
    return {"httpGet": {"path": "/healthz", "port": "supervisor"}, **times}


def kept_for(key: str) -> Object:
    """The toleration of a lost node."""
    return {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}


def test_a_job_with_every_flag() -> None:
    """Every flag sets its field, and everything else comes from the manifests."""
    submission = Submission(
        name="digits",
        overlay="cpu",
        components=("one-node",),
        image="registry.test/mnist:1@sha256:" + "0" * 64,
        workers=4,
        cpu="1500m",
        memory="3Gi",
        gpus=1,
        queue="night",
        deadline_s=5400,
        claim="mine",
        node_selectors=("disk=ssd", "example.com/zone=b"),
        tolerations=("team", "team=vision:NoSchedule"),
        priority_class="high",
        service_account="trainer",
        variables=("LOG=a=b", "EMPTY="),
        arguments=("--epochs", "3", "--batch-size=64"),
    )
    assert render.job(submission) == {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "digits", "labels": {**LABELS, "kueue.x-k8s.io/queue-name": "night"}},
        "spec": {
            "suspend": True,
            "completionMode": "Indexed",
            "completions": 4,
            "parallelism": 4,
            "backoffLimitPerIndex": 3,
            "maxFailedIndexes": 0,
            "podReplacementPolicy": "Failed",
            "successPolicy": {"rules": [{"succeededIndexes": "0"}]},
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": "trainer",
                            "operator": "In",
                            "values": [64, 65, 66, 69, 70, 71, 73, 76, 78],
                        },
                    },
                ]
            },
            "activeDeadlineSeconds": 5400,
            "ttlSecondsAfterFinished": 604_800,
            "template": {
                "metadata": {
                    "labels": LABELS
                    | {
                        "mnist-job/claim": "mine",
                        "sidecar.istio.io/inject": "false",
                        "istio.io/dataplane-mode": "none",
                    },
                    "annotations": {"sidecar.istio.io/inject": "false", "linkerd.io/inject": "disabled"},
                },
                "spec": {
                    "restartPolicy": "Never",
                    "subdomain": "mnist-job",
                    "serviceAccountName": "trainer",
                    "priorityClassName": "high",
                    "nodeSelector": {
                        "kubernetes.io/os": "linux",
                        "kubernetes.io/arch": "amd64",
                        "disk": "ssd",
                        "example.com/zone": "b",
                    },
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": 45,
                    "securityContext": POD_USER,
                    "tolerations": [
                        kept_for("not-ready"),
                        kept_for("unreachable"),
                        {"key": GPU, "operator": "Exists", "effect": "NoSchedule"},
                        {"key": "team", "operator": "Exists"},
                        {"key": "team", "operator": "Equal", "value": "vision", "effect": "NoSchedule"},
                    ],
                    "topologySpreadConstraints": [
                        {
                            "maxSkew": 1,
                            "topologyKey": "kubernetes.io/hostname",
                            "whenUnsatisfiable": "ScheduleAnyway",
                            "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "mnist-job"}},
                            "matchLabelKeys": ["batch.kubernetes.io/job-name"],
                        }
                    ],
                    "affinity": {
                        "podAffinity": {
                            "requiredDuringSchedulingIgnoredDuringExecution": [
                                {
                                    "topologyKey": "kubernetes.io/hostname",
                                    "labelSelector": {},
                                    "matchLabelKeys": ["mnist-job/claim"],
                                }
                            ]
                        }
                    },
                    "containers": [
                        {
                            "name": "trainer",
                            "image": "registry.test/mnist:1@sha256:" + "0" * 64,
                            "imagePullPolicy": "IfNotPresent",
                            "args": [
                                "train",
                                "--data=/data",
                                "--output=/output",
                                "--device=gpu",
                                "--epochs",
                                "3",
                                "--batch-size=64",
                            ],
                            "env": [
                                {
                                    "name": "RUN",
                                    "valueFrom": from_field("metadata.labels['batch.kubernetes.io/job-name']"),
                                },
                                {
                                    "name": "JOB_NAME",
                                    "valueFrom": from_field("metadata.labels['batch.kubernetes.io/job-name']"),
                                },
                                {
                                    "name": "JOB_UID",
                                    "valueFrom": from_field("metadata.labels['batch.kubernetes.io/controller-uid']"),
                                },
                                {"name": "POD_IP", "valueFrom": from_field("status.podIP")},
                                {"name": "POD_NAME", "valueFrom": from_field("metadata.name")},
                                {"name": "WORKERS", "value": "4"},
                                {"name": "SERVICE", "value": "mnist-job"},
                                {"name": "LOG", "value": "a=b"},
                                {"name": "EMPTY", "value": ""},
                            ],
                            "ports": [
                                {"name": "tensorflow", "containerPort": 2222},
                                {"name": "supervisor", "containerPort": 9100},
                            ],
                            "resources": {
                                "requests": {"cpu": "1500m", "memory": "3Gi"},
                                "limits": {"cpu": "1500m", "memory": "3Gi", GPU: 1},
                            },
                            "startupProbe": probe(1, 1, 300),
                            "livenessProbe": probe(15, 10, 4),
                            "terminationMessagePolicy": "FallbackToLogsOnError",
                            "securityContext": SMALL,
                            "volumeMounts": [
                                {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - a mount in a container
                                {"name": "output", "mountPath": "/output"},
                                {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the same
                            ],
                        }
                    ],
                    "volumes": [
                        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
                        {"name": "tmp", "emptyDir": {"sizeLimit": "2Gi"}},
                        {"name": "output", "persistentVolumeClaim": {"claimName": "mine"}},
                    ],
                },
            },
        },
    }


@pytest.mark.parametrize("overlay", ["cpu", "gpu", "local"])
def test_a_job_without_flags(overlay: str) -> None:
    """Without flags it is what `kubectl apply -k` sends, except for its name and the launcher's labels."""
    [plain] = kustomize(MANIFESTS / "overlays" / overlay)
    plain["metadata"]["name"] = "digits"
    for metadata in (plain["metadata"], plain["spec"]["template"]["metadata"]):
        metadata["labels"] |= LABELS
    assert render.job(Submission("digits", overlay=overlay)) == plain


def test_a_job_that_goes_on_with_fewer_workers() -> None:
    """As many indexes may fail as the training can miss workers, and Kueue may start the Job with fewer pods."""
    rendered = render.job(Submission("digits", workers=4, min_workers=3))
    assert rendered["spec"]["maxFailedIndexes"] == 1
    assert trainer_of(rendered["spec"]["template"])["args"][-1] == "--min-workers=3"
    assert "annotations" not in rendered["metadata"]
    queued = render.job(Submission("digits", workers=4, min_workers=3, queue="night"))
    assert queued["metadata"]["annotations"] == {"kueue.x-k8s.io/job-min-parallelism": "3"}
    again = render.fill_job(queued, Submission("digits", workers=5, min_workers=2))
    assert (again["spec"]["maxFailedIndexes"], least_workers(again)) == (3, 2)
    assert again["metadata"]["annotations"] == {"kueue.x-k8s.io/job-min-parallelism": "2"}
    needs_all = render.fill_job(again, Submission("digits", workers=2))
    assert (needs_all["spec"]["maxFailedIndexes"], needs_all["metadata"]["annotations"]) == (0, {})


def test_an_overlay_may_give_the_flag_as_two_arguments() -> None:
    """And flags of another version of the job, which only the worker knows."""
    rendered = render.job(Submission("digits", workers=4))
    trainer_of(rendered["spec"]["template"])["args"] += ["--min-workers", "2", "--new=1"]
    again = render.fill_job(rendered, Submission("digits"))
    assert (again["spec"]["maxFailedIndexes"], least_workers(again)) == (2, 2)
    with pytest.raises(JobError, match="--min-workers must be at most the number of workers, 1, not 2"):
        render.fill_job(rendered, Submission("digits", workers=1))
    again = render.fill_job(rendered, Submission("digits", workers=4, min_workers=3))
    assert (again["spec"]["maxFailedIndexes"], least_workers(again)) == (1, 3)
    with pytest.raises(JobError, match="--min-workers cannot be used with --sync-every above 1, here 5; "):
        render.fill_job(rendered, Submission("digits", arguments=("--sync-every", "5")))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"workers": 2, "min_workers": 3}, "--min-workers must be at most the number of workers, 2, not 3"),
        (
            {"min_workers": 1, "arguments": ("--sync-every=5",)},
            (
                "--min-workers cannot be used with --sync-every above 1, here 5; leave out one of them: "
                "with local SGD, another number of workers gives another model"
            ),
        ),
    ],
)
def test_a_job_that_cannot_go_on_with_fewer_workers(fields: dict[str, Any], sentence: str) -> None:
    """It is refused with the sentence of the job's own check."""
    with pytest.raises(JobError) as caught:
        render.job(Submission("digits", **fields))
    assert (str(caught.value), caught.value.code) == (sentence, Exit.USAGE)


def test_rendering_twice() -> None:
    """The same submission gives equal objects that share nothing."""
    first, second = render.job(Submission("digits")), render.job(Submission("digits"))
    before = copy.deepcopy(second)
    assert first == second
    first["spec"]["template"]["spec"]["containers"].clear()
    assert second == before


def test_gpus_by_overlay_or_flag() -> None:
    """The overlay, the component and the flag all give each worker one GPU."""
    assert render.job(Submission("digits", gpus=1)) == render.job(Submission("digits", overlay="gpu"))
    assert render.job(Submission("digits", overlay="gpu", gpus=1)) == render.job(Submission("digits", overlay="gpu"))
    assert render.job(Submission("digits", gpus=0)) == render.job(Submission("digits"))


def test_an_overlay_of_the_users_own(tmp_path: Path) -> None:
    """A path with a slash in it is an overlay or a component of the user's own, also through a link."""
    shutil.copytree(MANIFESTS / "run", tmp_path / "run")
    for name, kind, content in (
        ("mine", "Kustomization", {"resources": ["../run"]}),
        ("big", "Component", {"patches": [{"target": {"kind": "Job"}, "patch": MORE}]}),
    ):
        (tmp_path / name).mkdir()
        version = "v1beta1" if kind == "Kustomization" else "v1alpha1"
        head = {"apiVersion": f"kustomize.config.k8s.io/{version}", "kind": kind}
        (tmp_path / name / "kustomization.yaml").write_text(yaml.safe_dump({**head, **content}))
    (tmp_path / "link").symlink_to("mine")
    for overlay in ("mine", "link"):
        found = render.job(Submission("digits", overlay=f"{tmp_path}/{overlay}", components=(f"{tmp_path}/big",)))
        expected = render.job(Submission("digits"))
        expected["spec"]["activeDeadlineSeconds"] = 9
        assert found == expected


MORE = "- {op: replace, path: /spec/activeDeadlineSeconds, value: 9}"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"workers": 0}, "--workers must be from 1 to 1000, not 0"),
        ({"workers": 1001}, "--workers must be from 1 to 1000, not 1001"),
        (
            {"name": "Digits"},
            "--name must be lower-case letters, digits and hyphens, with a letter or digit at both ends, not 'Digits'",
        ),
        (
            {"name": "a" * 62, "workers": 11},
            f"--name must be at most 60 characters with 11 worker(s), not 62: '{'a' * 62}'",
        ),
        *(
            ({"cpu": cpu}, f"--cpu must be a Kubernetes quantity above 0 such as 500m or 2, not {cpu!r}")
            for cpu in ("two", "0", "0m", "0.00", "-1", "", "1Gi", "1.", "NaN", "1 ", "\u0661")
        ),
        *(
            ({"memory": memory}, f"--memory must be a Kubernetes quantity above 0 such as 512Mi or 2Gi, not {memory!r}")
            for memory in ("0", "0Gi", "0.0Mi", "-1Gi", "500m", "1GB", "Gi", "", "inf")
        ),
        ({"gpus": 2}, "--gpus must be 0 or 1, not 2; each worker trains on one GPU: increase --workers"),
        ({"gpus": 0, "overlay": "gpu"}, "--gpus 0 and the gpu overlay contradict each other; leave one of them out"),
        (
            {"gpus": 0, "components": ("gpu",)},
            "--gpus 0 and the gpu component contradict each other; leave one of them out",
        ),
        ({"arguments": ("--epochs=0",)}, "--epochs must be at least 1, not 0"),
        (
            {"arguments": ("--epoch=1",)},
            "unrecognized arguments: --epoch=1; see `python -m job train --help`",
        ),
        (
            {"arguments": ("--workers", "3")},
            "--workers cannot be given after the --; give it before the --",
        ),
        ({"min_workers": 0}, "--min-workers must be at least 1, not 0"),
        (
            {"arguments": ("--min-workers=1",)},
            "--min-workers cannot be given after the --; give it before the --",
        ),
        ({"arguments": ("--name=x",)}, "--name cannot be given after the --; give it before the --"),
        (
            {"arguments": ("--data=/d",)},
            (
                "--data cannot be given after the --; "
                "the image holds the dataset at /data; to use a claim with another dataset, give --data before the --"
            ),
        ),
        ({"data": "../data"}, "--data must be the name of a claim, not '../data'"),
        ({"node_selectors": ("disk",)}, "--node-selector must be a node's label such as disktype=ssd, not 'disk'"),
        (
            {"tolerations": ("team:Never",)},
            (
                "--toleration must be KEY, KEY=VALUE or either with :EFFECT "
                "(NoSchedule, PreferNoSchedule, NoExecute), not 'team:Never'"
            ),
        ),
        ({"priority_class": "High"}, "--priority-class must be the name of a priority class, not 'High'"),
        ({"service_account": "a_b"}, "--service-account must be the name of a service account, not 'a_b'"),
        (
            {"variables": ("1=x",)},
            "--env must be NAME=VALUE, with a NAME of letters, digits and underscores; what was given is not shown",
        ),
        *(
            (
                {"variables": (f"{name}=1",)},
                f"--env cannot set {name}: workers read their run, rank and peers from it",
            )
            for name in sorted(IDENTITY)
        ),
        ({"arguments": ("--output=/o",)}, "--output cannot be given after the --; the claim is mounted at /output"),
        ({"arguments": ("--device=gpu",)}, "--device cannot be given after the --; --overlay gpu trains on GPUs"),
    ],
)
def test_refusals(fields: dict[str, Any], sentence: str) -> None:
    """A wrong flag is refused before rendering, with a sentence that names the value."""
    with pytest.raises(JobError) as caught:
        Submission(**{"name": "digits", **fields})
    assert (str(caught.value), caught.value.code) == (sentence, Exit.USAGE)


def test_unknown_folders() -> None:
    """An unknown overlay or component is refused with the names of the known ones."""
    fields: dict[str, Any]
    for one, fields in (("overlay", {"overlay": "x"}), ("component", {"components": ("x",)})):
        with pytest.raises(JobError) as caught:
            render.job(Submission("digits", **fields))
        known = ", ".join(sorted(path.name for path in (MANIFESTS / f"{one}s").iterdir()))
        sentence = f"the {one} 'x' does not exist; use {known}, or the path of a folder with a slash in it"
        assert (str(caught.value), caught.value.code) == (sentence, Exit.USAGE)


def test_what_kubectl_cannot_render(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that kubectl cannot render is refused in kubectl's words; a missing kubectl is refused too."""
    (tmp_path / "kustomization.yaml").write_text("resources: [nowhere.yaml]")
    with pytest.raises(JobError, match=rf"^kubectl cannot render {tmp_path}: .*nowhere\.yaml.*$") as caught:
        render.job(Submission("digits", overlay=str(tmp_path)))
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(JobError, match=r"^kubectl is not on the PATH; install it: it renders the manifests$"):
        render.job(Submission("digits"))
    (tmp_path / "kubectl").write_bytes(b"MZ")
    (tmp_path / "kubectl").chmod(0o755)
    with pytest.raises(JobError, match=r"^kubectl cannot be run: Exec format error; install it again$"):
        render.job(Submission("digits"))


def test_data_on_a_claim() -> None:
    """The dataset's claim is mounted read-only, in place of an earlier one; the output's claim stays."""
    plain, job = render.job(Submission("digits")), render.job(Submission("digits", data="first", claim="mine"))
    render.mount_data(job["spec"]["template"], "second")
    spec = job["spec"]["template"]["spec"]
    claim = {"claimName": "second", "readOnly": True}
    assert spec["volumes"].pop() == {"name": "data", "persistentVolumeClaim": claim}
    [trainer] = spec["containers"]
    assert trainer["volumeMounts"].pop() == {"name": "data", "mountPath": "/data", "readOnly": True}
    render.set_claim(job["spec"]["template"], CLAIM)
    assert spec == plain["spec"]["template"]["spec"]


def test_labels_of_the_claims() -> None:
    """Pods have the names of their claims as labels; a name too long for a label is shortened."""
    for claim, label in (("mine", "mine"), ("a" * 63, "a" * 63), ("a" * 64, sha256(b"a" * 64).hexdigest()[:63])):
        labels = render.job(Submission("digits", claim=claim, data="images"))["spec"]["template"]["metadata"]["labels"]
        assert (labels["mnist-job/claim"], labels["mnist-job/data"]) == (label, "images")


def test_one_node_once() -> None:
    """put_on_one_node() adds its term once, and keeps an affinity of the user's own."""
    on_one = render.job(Submission("digits", overlay="local"))
    render.put_on_one_node(on_one)
    assert on_one == render.job(Submission("digits", overlay="local"))
    [term] = on_one["spec"]["template"]["spec"]["affinity"]["podAffinity"][REQUIRED]
    job = render.job(Submission("digits"))
    near = {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "cache"}}}
    job["spec"]["template"]["spec"]["affinity"] = {"podAffinity": {REQUIRED: [near]}, "nodeAffinity": {}}
    render.put_on_one_node(job)
    expected = {"podAffinity": {REQUIRED: [near, term]}, "nodeAffinity": {}}
    assert job["spec"]["template"]["spec"]["affinity"] == expected


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (
            {"resources": ["SETUP"]},
            "must make exactly one Job, but makes ServiceAccount, Service, PersistentVolumeClaim, NetworkPolicy",
        ),
        ({"resources": ["RUN"], "patches": [NO_CLAIM]}, "does not mount one claim for the output"),
        (
            {"resources": ["RUN"], "patches": [replacing("/spec/template/spec/subdomain", "mine")]},
            "names two Services: in `subdomain`, and in the variable SERVICE",
        ),
        (
            {"resources": ["RUN"], "patches": [replacing(f"/spec/template/metadata/labels/{NAME}", "mine")]},
            "has pods without the label app.kubernetes.io/name: mnist-job",
        ),
    ],
)
def test_an_overlay_that_is_no_run(tmp_path: Path, content: dict[str, Any], problem: str) -> None:
    """An overlay that is not a run is refused, and what it lacks is named."""
    folders = {"SETUP": "setup", "RUN": "run"}
    base = [os.path.relpath(MANIFESTS / folders[name], tmp_path.resolve()) for name in content["resources"]]
    (tmp_path / "kustomization.yaml").write_text(json.dumps({**content, "resources": base}), encoding="utf-8")
    with pytest.raises(JobError) as refused:
        render.job(Submission("digits", overlay=f"{tmp_path}/"))
    assert str(refused.value).startswith(f"the overlay {tmp_path}/ {problem}")
