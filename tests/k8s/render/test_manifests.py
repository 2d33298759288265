"""The manifests are valid for every supported Kubernetes version, and agree with job/."""

from __future__ import annotations

import os
import re
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import kubernetes_validate
import pytest
import yaml

from job.__main__ import main as job_main
from job.cluster import SUPERVISOR_PORT, TENSORFLOW_PORT, Cluster, identify, pod_name
from job.config import parse
from job.errors import Exit
from job.output.layout import serving_folder
from job.supervisor import supervisor
from job.supervisor.outcome import FINAL_CODES
from k8s.checks.matching import selects
from k8s.commands.schedule import cron_job
from k8s.render import render
from k8s.render.attempt import next_job
from k8s.render.kustomize import MANIFESTS, kustomize
from k8s.render.submission import Submission
from k8s.state.names import (
    APP,
    CANCELLED,
    CLAIM,
    CLAIM_LABEL,
    CONTAINER,
    DATA,
    INDEX_LABEL,
    JOB_NAME_LABEL,
    NAME_LABEL,
    NO_MESH_LABELS,
    OUTPUT,
    PART_OF_LABEL,
    QUEUE_LABEL,
    claim_of,
    trainer_of,
)
from k8s.volume.template import base_template, volume_pod

if TYPE_CHECKING:
    from k8s.api.objects import Object

ROOT = Path(__file__).parents[3]
VERSIONS = ["1.31", "1.32", "1.33", "1.34", "1.35"]
OVERLAYS = sorted(path.name for path in (MANIFESTS / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (MANIFESTS / "components").iterdir())
# What the Job controller adds to a pod of rank 1, apart from the name of its Job.
LABELS = {"batch.kubernetes.io/controller-uid": "uid-1", INDEX_LABEL: "1"}


def job(overlay: str = "cpu", *components: str) -> Object:
    """The Job that `kubectl apply -k` sends, without the launcher's changes."""
    folders = [MANIFESTS / "components" / component for component in components]
    [found] = kustomize(MANIFESTS / "overlays" / overlay, *folders)
    return found


def pod_spec(found: Object) -> Object:
    """The spec of a Job's pods, or of a pod."""
    spec: Object = found["spec"]["template"]["spec"] if found["kind"] == "Job" else found["spec"]
    return spec


VOLUME_POLICY = "mnist-job-volume"


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> Object:
    """The Job of each overlay."""
    return job(request.param)


@pytest.fixture(scope="module")
def setup() -> dict[str, Object]:
    """The objects of the setup that runs use, by kind."""
    return {found["kind"]: found for found in render.setup_objects() if found["metadata"]["name"] != VOLUME_POLICY}


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_overlay_is_valid(name: str) -> None:
    """Every overlay, with no, any two and all components, fits the schemas of every version."""
    chosen = [(), *combinations(COMPONENTS, 2), tuple(COMPONENTS)]
    for components in chosen:
        check_schemas(job(name, *components))


@pytest.mark.parametrize("folder", ["setup", "data", "rbac"])
def test_everything_else_is_valid(folder: str) -> None:
    """Every object in the other folders fits the schemas of every version."""
    for found in kustomize(MANIFESTS / folder):
        check_schemas(found)


def test_volume_pod_is_valid() -> None:
    """The pod that mounts a volume for the launcher fits the schemas of every version."""
    check_schemas(volume_pod(base_template("mine:1"), "v", node="n1"))


def check_schemas(found: Object) -> None:
    """Fail for a field that some version does not know or that has the wrong type."""
    for version in VERSIONS:
        assert kubernetes_validate.validate(found, version, strict=True) == version


def test_an_invalid_object_is_noticed() -> None:
    """The schemas refuse a misspelt field in the pods' spec, and a number that is text."""
    for path, value in (("restartpolicy", "Never"), ("terminationGracePeriodSeconds", "20")):
        found = job()
        pod_spec(found)[path] = value
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(found, VERSIONS[0], strict=True)


def test_one_object_a_file() -> None:
    """Each file holds one object, and its kustomization names it."""
    for kustomization in MANIFESTS.rglob("kustomization.yaml"):
        content = yaml.safe_load(kustomization.read_text())
        named = {*content.get("resources", []), *content.get("configurations", [])} | {
            p["path"] for p in content.get("patches", []) if "path" in p
        }
        files = {path.name for path in kustomization.parent.glob("*.yaml")} - {kustomization.name}
        assert {name for name in named if not name.startswith("..")} == files
        for name in files:
            assert len(list(yaml.safe_load_all((kustomization.parent / name).read_text()))) == 1


def test_fatal_exit_codes(overlay: Object) -> None:
    """The Job fails at once for the final exit codes, in ascending order; disruptions are ignored first."""
    assert overlay["spec"]["podFailurePolicy"]["rules"] == [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {
            "action": "FailJob",
            "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": sorted(FINAL_CODES - {Exit.OK})},
        },
    ]


def test_how_a_run_goes_on_and_ends(overlay: Object) -> None:
    """The Job's spec, without its pods, is what the supervisors rely on."""
    spec = {key: value for key, value in overlay["spec"].items() if key not in ("template", "podFailurePolicy")}
    assert spec == {
        "completionMode": "Indexed",
        "completions": 2,
        "parallelism": 2,
        "backoffLimitPerIndex": 3,
        "maxFailedIndexes": 0,
        "podReplacementPolicy": "Failed",
        "successPolicy": {"rules": [{"succeededIndexes": "0"}]},
        "activeDeadlineSeconds": 6 * 3600,
        "ttlSecondsAfterFinished": 7 * 24 * 3600,
    }
    assert pod_spec(overlay)["restartPolicy"] == "Never"


def test_number_of_workers(overlay: Object) -> None:
    """WORKERS, completions and parallelism are the same number."""
    spec = overlay["spec"]
    workers = render.variables(trainer_of(spec["template"]))["WORKERS"]["value"]
    assert int(workers) == spec["completions"] == spec["parallelism"]


def test_ports(overlay: Object, setup: dict[str, Object]) -> None:
    """The container and the Service name the ports of TensorFlow and the supervisor; probes use the supervisor's."""
    trainer = trainer_of(overlay["spec"]["template"])
    ports = {"tensorflow": TENSORFLOW_PORT, "supervisor": SUPERVISOR_PORT}
    assert {port["name"]: port["containerPort"] for port in trainer["ports"]} == ports
    assert {port["name"]: port["port"] for port in setup["Service"]["spec"]["ports"]} == ports
    for probe in ("startupProbe", "livenessProbe"):
        assert trainer[probe]["httpGet"] == {"path": "/healthz", "port": "supervisor"}
    assert "readinessProbe" not in trainer
    exposed = re.search(r"^EXPOSE (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert exposed
    assert [int(port) for port in exposed[1].split()] == list(ports.values())


@pytest.mark.parametrize(("run", "job_name"), [("demo", "demo"), ("demo", "demo-2")])
def test_identity(run: str, job_name: str, overlay: Object, setup: dict[str, Object]) -> None:
    """A worker reads from its pod's environment who it is; its peers have the names of its Job's pods."""
    if job_name != run:
        overlay = next_job({**overlay, "metadata": {**overlay["metadata"], "name": run}})
    metadata = overlay["spec"]["template"]["metadata"]
    labels = {**LABELS, JOB_NAME_LABEL: job_name}
    fields = {"status.podIP": "198.18.0.7", "metadata.name": "demo-1-aaaa0"}
    fields |= {f"metadata.labels['{key}']": value for key, value in labels.items()}
    environ = {"JOB_COMPLETION_INDEX": "1"}  # which the Job controller adds
    for name, variable in render.variables(trainer_of(overlay["spec"]["template"])).items():
        environ[name] = variable.get("value") or fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]
    assert environ["POD_IP"] == "198.18.0.7"
    assert pod_name(environ) == "demo-1-aaaa0"
    service, subdomain = setup["Service"], pod_spec(overlay)["subdomain"]
    hosts = [f"{job_name}-{rank}.{subdomain}" for rank in range(2)]
    assert identify(environ) == Cluster(
        run="demo",
        job_uid="uid-1",
        rank=1,
        tensorflow=tuple(f"{host}:{TENSORFLOW_PORT}" for host in hosts),
        supervisors=tuple(f"{host}:{SUPERVISOR_PORT}" for host in hosts),
    )
    assert service["metadata"]["name"] == subdomain
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"].items() <= metadata["labels"].items()


def test_labels(overlay: Object, setup: dict[str, Object]) -> None:
    """Jobs and their pods have the labels that select them; the setup has those of the app."""
    template = overlay["spec"]["template"]
    labels = {NAME_LABEL: APP, PART_OF_LABEL: APP, "app.kubernetes.io/component": "trainer"}
    assert overlay["metadata"]["labels"] == labels
    assert template["metadata"]["labels"] == labels | {CLAIM_LABEL: CLAIM} | NO_MESH_LABELS
    # Nothing of the manifests may be taken for what the controller or the launcher adds.
    assert not {JOB_NAME_LABEL, INDEX_LABEL, QUEUE_LABEL, CANCELLED} & set(overlay["metadata"].get("annotations", {}))
    policy = setup["NetworkPolicy"]["spec"]
    same = {"podSelector": {"matchLabels": {NAME_LABEL: APP}}}
    assert policy["podSelector"] == same["podSelector"]
    assert policy["ingress"] == [{"from": [same], "ports": [{"protocol": "TCP"}]}]
    dns = [{"protocol": protocol, "port": port} for port in (53, 5353, 8053) for protocol in ("UDP", "TCP")]
    assert policy["egress"] == [{"to": [same], "ports": [{"protocol": "TCP"}]}, {"ports": dns}]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    for found in render.setup_objects():
        assert found["metadata"]["labels"] == {PART_OF_LABEL: APP, "app.kubernetes.io/managed-by": APP}


def test_volume_pods_have_no_network() -> None:
    """Their policy selects them, and lets nothing in or out."""
    [policy] = [found["spec"] for found in render.setup_objects() if found["metadata"]["name"] == VOLUME_POLICY]
    labels = volume_pod(base_template("mine:1"), "v")["metadata"]["labels"]
    assert selects(policy["podSelector"], labels)
    assert policy == {"podSelector": policy["podSelector"], "policyTypes": ["Ingress", "Egress"]}
    assert not selects(policy["podSelector"], job("local")["spec"]["template"]["metadata"]["labels"])


def test_pods_take_no_part_in_a_mesh() -> None:
    """Workers, those of a schedule too, and volume pods; the documentation's overlay changes that for workers."""
    scheduled = cron_job(render.job(Submission("nightly")), "@daily", "UTC")["spec"]["jobTemplate"]["spec"]["template"]
    for pod in (job("local")["spec"]["template"], scheduled, volume_pod(base_template("mine:1"), "v")):
        labels = {"sidecar.istio.io/inject": "false", "istio.io/dataplane-mode": "none"}
        assert pod["metadata"]["labels"].items() >= labels.items()
        annotations = {"sidecar.istio.io/inject": "false", "linkerd.io/inject": "disabled"}
        assert pod["metadata"]["annotations"] == annotations


def test_an_overlay_that_opts_in_to_a_mesh(tmp_path: Path) -> None:
    """The one in the documentation."""
    page = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    [text] = re.findall(r"## Service meshes\n.*?```yaml\n(.*?)```", page, re.DOTALL)
    relative = os.path.relpath(MANIFESTS, tmp_path.resolve())
    (tmp_path / "kustomization.yaml").write_text(text.replace("../k8s/manifests", relative))
    [found] = kustomize(tmp_path)
    metadata = found["spec"]["template"]["metadata"]
    assert metadata["labels"]["sidecar.istio.io/inject"] == "true"
    assert metadata["annotations"] == {"sidecar.istio.io/inject": "true", "linkerd.io/inject": "enabled"}


def test_mounts(overlay: Object, setup: dict[str, Object]) -> None:
    """The claim is mounted at the training's output folder; besides, only /tmp is writable."""
    spec, trainer = pod_spec(overlay), trainer_of(overlay["spec"]["template"])
    mounts = {mount["name"]: mount["mountPath"] for mount in trainer["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert mounts.keys() == volumes.keys()
    shared = {"shm": "/dev/shm"} if "shm" in mounts else {}  # noqa: S108 - a mount in a container
    assert mounts == {"output": OUTPUT, "tmp": "/tmp", **shared}  # noqa: S108 - the same
    assert claim_of(overlay["spec"]["template"]) == CLAIM == setup["PersistentVolumeClaim"]["metadata"]["name"]
    for name in volumes.keys() - {"output"}:
        assert "sizeLimit" in volumes[name]["emptyDir"]
    command, *flags = trainer["args"]
    config = parse(flags)
    assert command == "train"
    assert (str(config.output), str(config.data)) == (OUTPUT, DATA)
    assert config.device == ("gpu" if render.GPU in trainer["resources"]["limits"] else "cpu")


def test_the_image_runs_what_the_arguments_say() -> None:
    """The Dockerfile's entry point takes the Job's arguments, and its user is the pods'."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    spec = pod_spec(job())
    user = spec["securityContext"]["runAsUser"]
    assert user == spec["securityContext"]["runAsGroup"] == spec["securityContext"]["fsGroup"]
    assert re.findall(r"^USER (.*)$", dockerfile, re.MULTILINE) == [f"{user}:{user}"]
    entry = re.findall(r"^ENTRYPOINT (.*)$", dockerfile, re.MULTILINE)
    assert [yaml.safe_load(text)[-2:] for text in entry] == [["-m", "job"]]
    assert job_main.__module__ == "job.__main__"


def test_grace_period(overlay: Object) -> None:
    """The pod's grace period is longer than the supervisor needs for its trainer and its last lines."""
    needed = supervisor.STOP_S + supervisor.FLUSH_S
    assert pod_spec(overlay)["terminationGracePeriodSeconds"] > needed


def test_restricted_pod_security() -> None:
    """Workers and the volume pod meet Pod Security `restricted`, with a read-only root and no token."""
    for found in [volume_pod(base_template("mine:1"), "v"), *(job(name, *COMPONENTS) for name in OVERLAYS)]:
        spec = pod_spec(found)
        user = 65532
        assert spec["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": user,
            "fsGroup": user,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"].keys() == {"requests", "limits"}
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert all(volume.keys() - {"name"} <= {"persistentVolumeClaim", "emptyDir"} for volume in spec["volumes"])


def test_service_account_has_no_token(setup: dict[str, Object]) -> None:
    """All pods use the setup's service account, which has no token and no role."""
    account = setup["ServiceAccount"]
    assert pod_spec(job())["serviceAccountName"] == account["metadata"]["name"]
    assert account["automountServiceAccountToken"] is False
    assert {found["kind"] for found in kustomize(MANIFESTS / "rbac")} == {"Role"}


def test_one_node() -> None:
    """The component places all pods that use the output's claim on one node, also those of other runs."""
    [term] = pod_spec(job("cpu", "one-node"))["affinity"]["podAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]
    assert term == {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {},
        "matchLabelKeys": [CLAIM_LABEL],
    }
    assert pod_spec(job("local")) == pod_spec(job("local", "one-node"))
    pods = [job("local")["spec"]["template"], volume_pod(base_template("mine:1"), "v")]
    for pod in pods:  # the volume pod, too: while it runs, the claim is in use on its node
        assert pod["metadata"]["labels"][CLAIM_LABEL] == CLAIM


def test_nodes_of_the_image() -> None:
    """Workers and volume pods run on nodes for which the image is built; those of kind and minikube always are."""
    image = {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    for name in OVERLAYS:
        of_image = image if name != "local" else {"kubernetes.io/os": "linux"}
        template = job(name)["spec"]["template"]
        for node in ("", "n1"):
            assert template["spec"]["nodeSelector"] == of_image
            assert volume_pod(template, "v", node=node)["spec"]["nodeSelector"] == of_image
    other = render.job(Submission("demo", node_selectors=("kubernetes.io/arch=arm64",)))
    assert pod_spec(other)["nodeSelector"] == image | {"kubernetes.io/arch": "arm64"}


def test_gpu() -> None:
    """The component gives each worker a GPU, the flag that uses it, and a toleration of GPU nodes' taint."""
    found, plain = job("cpu", "gpu"), job()
    assert found == job("gpu")
    trainer = trainer_of(found["spec"]["template"])
    assert trainer["resources"]["limits"][render.GPU] == 1
    assert trainer["args"] == [*trainer_of(plain["spec"]["template"])["args"], "--device=gpu"]
    tolerations = pod_spec(found)["tolerations"]
    assert tolerations[:-1] == pod_spec(plain)["tolerations"]
    assert tolerations[-1] == {"key": render.GPU, "operator": "Exists", "effect": "NoSchedule"}


def test_kueue() -> None:
    """The component suspends the Job for Kueue, and labels it with a queue."""
    found = job("cpu", "kueue")
    assert found["spec"]["suspend"] is True
    assert found["metadata"]["labels"][QUEUE_LABEL] == APP
    assert render.job(Submission("demo", queue="night"))["metadata"]["labels"][QUEUE_LABEL] == "night"


def test_a_lost_node_is_left_soon(overlay: Object) -> None:
    """Pods are replaced 30 s after their node is lost, instead of Kubernetes' default of 5 minutes."""
    assert pod_spec(overlay)["tolerations"][:2] == [
        {
            "key": f"node.kubernetes.io/{what}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": 30,
        }
        for what in ("not-ready", "unreachable")
    ]


def test_model_server() -> None:
    """The example's Deployment and Service fit the schemas, belong together, and read what promotion writes."""
    text = (ROOT / "examples" / "serving.yaml").read_text(encoding="utf-8")
    deployment, service = yaml.safe_load_all(text.replace("TAG", "1").replace("CLAIM", CLAIM))
    assert (deployment["kind"], service["kind"]) == ("Deployment", "Service")
    for found in (deployment, service):
        check_schemas(found)
    template = deployment["spec"]["template"]
    labels, [server] = template["metadata"]["labels"], template["spec"]["containers"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert service["spec"]["selector"].items() <= labels.items()
    assert {port["targetPort"] for port in service["spec"]["ports"]} == {port["name"] for port in server["ports"]}
    assert server["readinessProbe"]["httpGet"]["port"] in {port["name"] for port in server["ports"]}
    for flag, port in zip(["--port", "--rest_api_port"], server["ports"], strict=True):
        assert f"{flag}={port['containerPort']}" in server["args"]
    assert server["volumeMounts"] == [{"name": "output", "mountPath": OUTPUT, "readOnly": True}]
    assert f"--model_base_path={serving_folder(Path(OUTPUT))}" in server["args"]
    # On the node of the runs that use a ReadWriteOnce claim, as their user, and not under their NetworkPolicy.
    assert claim_of(template) == labels[CLAIM_LABEL] == CLAIM
    user = ("runAsUser", "runAsGroup")
    assert [template["spec"]["securityContext"][key] for key in user] == [
        pod_spec(job())["securityContext"][key] for key in user
    ]
    assert labels[NAME_LABEL] != APP
