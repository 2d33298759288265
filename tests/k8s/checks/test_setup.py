"""What submit creates besides the Job: a dry run tries all of it first, and a refusal leaves nothing behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from k8s.api.errors import ApiError, LauncherError, unreached
from k8s.checks import preflight, setup
from k8s.commands import submit
from k8s.render import render
from k8s.render.submission import Submission
from k8s.state.names import APP, CLAIM
from tests.k8s.checks.cluster import CheckedCluster, claim, denied, named, ready_cluster
from tests.k8s.fakes import job as job_of

if TYPE_CHECKING:
    from k8s.api.objects import Object
    from k8s.checks.check import Check

KINDS = ["NetworkPolicy", "PersistentVolumeClaim", "Service", "ServiceAccount"]
PLURALS = {
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
}


def refusal(kind: str, text: str) -> ApiError:
    """What an admission plugin says of an object of this kind."""
    message = f'{PLURALS.get(kind, "networkpolicies.networking.k8s.io")} "{APP}" is forbidden: {text}'
    return ApiError(403, "Forbidden", message, "create it")


def check_of(name: str, cluster: CheckedCluster, submission: Submission | None = None) -> Check:
    """One of preflight's checks."""
    job, found = submit.prepare(cluster.given(), render.job(submission or Submission("digits")))
    return {check.name: check for check in preflight.check_all(cluster.given(), job, found)}[name]


def changes(cluster: CheckedCluster) -> list[tuple[str, str]]:
    """What was changed, without dry runs."""
    return [(verb, kind) for verb, kind, _ in cluster.asked if verb != "dry-run"]


def test_a_setup_that_is_created() -> None:
    """Every absent object is tried in a dry run, and named; what exists is left alone."""
    cluster = ready_cluster()
    assert check_of("setup", cluster).message == (
        "submit creates the ServiceAccount mnist-job, the Service mnist-job, the PersistentVolumeClaim "
        "mnist-job-output, the NetworkPolicy mnist-job and the NetworkPolicy mnist-job-volume"
    )
    assert sorted(kind for _, kind, _ in cluster.asked) == sorted([*KINDS, "NetworkPolicy", "Pod", "Job"])
    assert changes(cluster) == []
    full = ready_cluster()
    full.objects |= {(new["kind"], new["metadata"]["name"]): new for new in render.setup_objects()}
    found = check_of("setup", full)
    assert (found.state, found.message) == ("ok", "everything that the runs of a namespace share exists")


@pytest.mark.parametrize("kind", KINDS)
def test_a_user_who_may_not_create_the_setup(kind: str) -> None:
    """A user who may not create one of the objects is told so before any is created."""
    cluster = ready_cluster(may_not=[f"create {kind}"])
    found = check_of("setup", cluster)
    remedy = "ask an administrator to run `kubectl apply -k k8s/manifests/setup -n here`"
    assert (found.state, found.message, found.remedy) == (
        "failed",
        f"this user may not create {kind} in namespace here",
        remedy,
    )
    with pytest.raises(LauncherError, match="digits was not submitted"):
        submit.submit(cluster.given(), render.job(Submission("digits")))
    assert changes(cluster) == []
    existing = ready_cluster(may_not=[f"create {kind}"])
    existing.objects |= {(new["kind"], new["metadata"]["name"]): new for new in render.setup_objects()}
    assert check_of("setup", existing).state == "ok"


def test_a_namespace_that_was_set_up_before_there_were_volume_pods_policies() -> None:
    """Without permission to create the NetworkPolicy of volume pods, a user is warned, and the run starts."""
    cluster = ready_cluster(may_not=["create NetworkPolicy"], refuses={"NetworkPolicy": denied("create", "policies")})
    setup = [new for new in render.setup_objects() if new["metadata"]["name"] != "mnist-job-volume"]
    cluster.objects |= {(new["kind"], new["metadata"]["name"]): new for new in setup}
    found = check_of("setup", cluster)
    assert (found.state, found.message, found.remedy) == (
        "warning",
        "the NetworkPolicy mnist-job-volume does not exist, and this user may not create it",
        "ask an administrator to run `kubectl apply -k k8s/manifests/setup -n here`",
    )
    submit.submit(cluster.given(), render.job(Submission("digits")))
    assert changes(cluster) == [("create", "Job")]
    del cluster.objects["NetworkPolicy", APP]
    assert check_of("setup", cluster).state == "failed"


@pytest.mark.parametrize(
    ("service", "policies"),
    [
        ("team-mnist-job-v2", ["team-mnist-job-v2", "team-mnist-job-volume-v2"]),
        ("mnist-job", ["mnist-job", "mnist-job-volume"]),
        ("workers", ["mnist-job", "mnist-job-volume"]),
    ],
)
def test_a_setup_that_an_overlay_renamed(service: str, policies: list[str]) -> None:
    """Its NetworkPolicies have the prefix and the suffix of its Service; another Service has none of its own."""
    job = render.job(Submission("digits"))
    job["spec"]["template"]["spec"]["subdomain"] = service
    needed = [new["metadata"]["name"] for new in setup.needed(job) if new["kind"] == "NetworkPolicy"]
    assert needed == policies
    assert [new["metadata"]["name"] for new in setup.needed(job) if setup.is_optional(new)] == policies[1:]


SERVICES = "exceeded quota: few, requested: services=1, used: services=0, limited: services=0"
STORAGE = (
    "exceeded quota: few, requested: requests.storage=5Gi, used: requests.storage=0, limited: requests.storage=1Gi"
)
HOOK = 'admission webhook "validation.gatekeeper.sh" denied the request: [owner] you must provide labels: {"owner"}'
TERMINATING = "unable to create new content in namespace here because it is being terminated"


@pytest.mark.parametrize(
    ("kind", "text", "remedy"),
    [
        ("Service", SERVICES, "ask an administrator to raise the quota few"),
        (
            "PersistentVolumeClaim",
            STORAGE,
            "ask an administrator to raise the quota few, or create a claim that is allowed and pass it with --claim",
        ),
        (
            "PersistentVolumeClaim",
            "maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 5Gi",
            "create a claim that is allowed, and pass it with --claim",
        ),
        ("NetworkPolicy", HOOK, "change what the message names, or ask the cluster's administrator"),
        (
            "ServiceAccount",
            TERMINATING,
            "wait until the namespace is gone and create it again, or choose another one with --namespace",
        ),
    ],
)
def test_a_setup_that_is_refused(kind: str, text: str, remedy: str) -> None:
    """A quota, a LimitRange or a webhook is named with a remedy for it, before anything is created."""
    cluster = ready_cluster(refuses={kind: refusal(kind, text)})
    found = check_of("setup", cluster)
    name = CLAIM if kind == "PersistentVolumeClaim" else APP
    also = f", the {kind} {name}-volume" if kind == "NetworkPolicy" else ""
    said = f"the API server would refuse the {kind} {name}{also}: {text}"
    assert (found.state, found.message, found.remedy) == ("failed", said, remedy)
    for skip in (False, True):
        with pytest.raises(LauncherError, match="digits was not submitted"):
            submit.submit(cluster.given(), render.job(Submission("digits")), skip=skip)
    assert changes(cluster) == []


def test_several_refusals() -> None:
    """All refusals are named at once."""
    cluster = ready_cluster(
        refuses={"Service": refusal("Service", SERVICES), "NetworkPolicy": refusal("NetworkPolicy", HOOK)}
    )
    found = check_of("setup", cluster)
    assert SERVICES in found.message
    assert HOOK in found.message
    assert "raise the quota few" in found.remedy
    assert "change what the message names" in found.remedy


def test_one_cause_for_all() -> None:
    """Objects that are refused for the same reason are named in one sentence."""
    cluster = ready_cluster(refuses={kind: refusal(kind, TERMINATING) for kind in KINDS})
    found = check_of("setup", cluster)
    assert found.message == (
        "the API server would refuse the ServiceAccount mnist-job, the Service mnist-job, the PersistentVolumeClaim "
        f"mnist-job-output, the NetworkPolicy mnist-job, the NetworkPolicy mnist-job-volume: {TERMINATING}"
    )


def test_a_claim_of_the_users_own_is_not_refused() -> None:
    """A dry run tries only what the Job needs."""
    cluster = ready_cluster(refuses={"PersistentVolumeClaim": refusal("PersistentVolumeClaim", STORAGE)})
    cluster.objects["PersistentVolumeClaim", "mine"] = {**claim("ReadWriteMany"), "metadata": {"name": "mine"}}
    assert check_of("setup", cluster, Submission("digits", claim="mine")).state == "ok"


@pytest.mark.parametrize("kind", ["Service", "Job"])
def test_a_webhook_without_dry_runs(kind: str) -> None:
    """An object whose webhook has side effects is not checked, and is created."""
    said = 'admission webhook "x" does not support dry run'
    cluster = ready_cluster(refuses={kind: ApiError(400, "BadRequest", said, "create it")}, only_dry_runs=True)
    found = check_of("job" if kind == "Job" else "setup", cluster)
    assert (found.state, said in found.message) == ("not checked", True)
    submit.submit(cluster.given(), render.job(Submission("digits")))
    assert ("create", kind) in changes(cluster)


def test_two_submissions_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another submission creates meanwhile is no refusal, and is not deleted afterwards."""
    cluster = ready_cluster(refuses={"Job": denied("create", "jobs")}, only_dry_runs=False)
    create = cluster.create
    [service] = [new for new in render.setup_objects() if new["kind"] == "Service"]

    def late(new: Object, **options: Any) -> Object:
        if new["kind"] == "Service":
            cluster.objects["Service", APP] = service
        return create(new, **options)

    monkeypatch.setattr(cluster, "create", late)
    assert check_of("setup", cluster).state == "ok"
    del cluster.objects["Service", APP]
    with pytest.raises(LauncherError, match='cannot create resource "jobs"'):
        submit.submit(cluster.given(), render.job(Submission("digits")))
    assert [kind for kind, _ in cluster.objects if kind in KINDS] == ["Service"]


def test_a_refused_job() -> None:
    """Preflight tries the Job itself, too."""
    text = "exceeded quota: few, requested: count/jobs.batch=1, used: count/jobs.batch=4, limited: count/jobs.batch=4"
    error = ApiError(403, "Forbidden", f'jobs.batch "digits" is forbidden: {text}', "create it")
    cluster = ready_cluster(refuses={"Job": error})
    found = check_of("job", cluster)
    assert (found.state, found.message) == ("failed", f"the API server would refuse the Job digits: {text}")
    assert found.remedy == "ask an administrator to raise the quota few"
    with pytest.raises(LauncherError, match="digits was not submitted"):
        submit.submit(cluster.given(), render.job(Submission("digits")))
    assert changes(cluster) == []


@pytest.mark.parametrize("kind", [*KINDS, "Job"])
def test_nothing_is_left_behind(kind: str) -> None:
    """If the API server refuses an object although the dry run did not, what was created before it is deleted."""
    cluster = ready_cluster(refuses={kind: denied("create", kind)}, only_dry_runs=False)
    before = dict(cluster.objects)
    with pytest.raises(LauncherError):
        submit.submit(cluster.given(), render.job(Submission("digits")))
    assert cluster.objects == before


def test_nothing_is_left_behind_by_a_user_who_may_not_list_schedules() -> None:
    """A role for runs alone is enough to delete what a refused submission created; the refusal comes with a remedy."""
    text = "exceeded quota: few, requested: count/jobs.batch=1, used: count/jobs.batch=4, limited: count/jobs.batch=4"
    refuses = {"Job": ApiError(403, "Forbidden", text, "create it")}
    cluster = ready_cluster(refuses=refuses, only_dry_runs=False, forbidden=["CronJob"])
    before = dict(cluster.objects)
    with pytest.raises(LauncherError) as caught:
        submit.submit(cluster.given(), render.job(Submission("digits")))
    assert str(caught.value) == f"the API server refuses the run: {text}; ask an administrator to raise the quota few"
    assert cluster.objects == before


@pytest.mark.parametrize("exists", [True, False])
def test_a_user_who_may_create_but_not_read(*, exists: bool) -> None:
    """What this user may not read is created if a dry run says that it does not exist."""
    cluster = ready_cluster(forbidden=["Service"])
    [service] = [new for new in render.setup_objects() if new["kind"] == "Service"]
    if exists:
        cluster.objects["Service", APP] = service
    submit.submit(cluster.given(), render.job(Submission("digits")))
    assert (("create", "Service") in changes(cluster)) is not exists


def test_what_was_there_is_left() -> None:
    """Only what this submission created is deleted."""
    cluster = ready_cluster(refuses={"Job": denied("create", "jobs")}, only_dry_runs=False)
    [service] = [new for new in render.setup_objects() if new["kind"] == "Service"]
    cluster.objects["Service", APP] = service
    before = dict(cluster.objects)
    with pytest.raises(LauncherError):
        submit.submit(cluster.given(), render.job(Submission("digits")))
    assert cluster.objects == before


def test_what_another_run_may_use_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """If another run was submitted meanwhile, it uses what this submission created."""
    cluster = ready_cluster(refuses={"Job": denied("create", "jobs")}, only_dry_runs=False)
    create = cluster.create

    def meanwhile(new: Object, **options: Any) -> Object:
        if new["kind"] == "Job" and not options:
            other = job_of("other")
            cluster.objects["Job", "other"] = other
            other["metadata"]["creationTimestamp"] = "2999-01-01T00:00:00Z"
        return create(new, **options)

    monkeypatch.setattr(cluster, "create", meanwhile)
    with pytest.raises(LauncherError):
        submit.submit(cluster.given(), render.job(Submission("digits")))
    assert {kind for kind, _ in cluster.objects} >= {*KINDS}


def test_a_lost_answer_deletes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the API server does not answer, the Job may exist: what it needs is left."""
    cluster = ready_cluster()
    create = cluster.create

    def lost(new: Object, **options: Any) -> Object:
        if new["kind"] == "Job" and not options:
            raise unreached("the API server does not answer")
        return create(new, **options)

    monkeypatch.setattr(cluster, "create", lost)
    with pytest.raises(LauncherError, match="does not answer"):
        submit.submit(cluster.given(), render.job(Submission("digits")))
    assert {kind for kind, _ in cluster.objects} >= {*KINDS}


def test_a_setup_that_cannot_be_deleted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What this user may not delete is named, and the error is that of the submission."""
    cluster = ready_cluster(refuses={"Job": denied("create", "jobs")}, only_dry_runs=False)

    def refuse(*_: str, **__: str) -> None:
        raise denied("delete", "services")

    monkeypatch.setattr(cluster, "delete", refuse)
    with pytest.raises(LauncherError, match='cannot create resource "jobs"'):
        submit.submit(cluster.given(), render.job(Submission("digits")))
    told = capsys.readouterr().err
    assert "the Service mnist-job was created and not deleted: " in told


def test_a_namespace_that_is_being_deleted() -> None:
    """A namespace that is being deleted takes no new objects."""
    cluster = ready_cluster()
    cluster.objects["Namespace", "here"] = named("Namespace", "here", status={"phase": "Terminating"})
    found = check_of("namespace", cluster)
    assert (found.state, found.message) == ("failed", "namespace here is being deleted")
    remedy = "wait until the namespace is gone and create it again, or choose another one with --namespace"
    assert found.remedy == remedy


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"clusterIP": "10.0.0.7"}, "has an address of its own (clusterIP is not None)"),
        ({"selector": {"app": "other"}}, "does not select the run's pods"),
        ({"selector": {"app.kubernetes.io/name": "mnist-job", "team": "a"}}, "does not select the run's pods"),
        ({}, ""),
    ],
)
def test_a_service_of_another_kind(change: Object, problem: str) -> None:
    """A Service with the right name must also give the workers their names."""
    [service] = [new for new in render.setup_objects() if new["kind"] == "Service"]
    service["spec"] |= change
    cluster = ready_cluster()
    cluster.objects["Service", APP] = service
    found = check_of("service", cluster)
    assert found.state == ("failed" if problem else "ok")
    if problem:
        assert found.message == f"the Service mnist-job {problem}, so the workers would not find each other"
        assert found.remedy == "delete it, and submit creates it again: `kubectl delete service mnist-job -n here`"


def test_a_service_without_the_addresses_of_pods_that_are_not_ready() -> None:
    """Pods are ready soon after they start, so the workers find each other a little later: a warning."""
    [service] = [new for new in render.setup_objects() if new["kind"] == "Service"]
    del service["spec"]["publishNotReadyAddresses"]
    cluster = ready_cluster()
    cluster.objects["Service", APP] = service
    found = check_of("service", cluster)
    assert found.state == "warning"
    assert found.message == (
        "the Service mnist-job does not publish addresses of pods that are not ready, so the workers find each other "
        "only once they are ready"
    )


def test_a_service_of_an_overlay_that_is_wrong() -> None:
    """Submit creates no Service of another name, so its own user has to correct it."""
    cluster = ready_cluster()
    cluster.objects["Service", "ours"] = named("Service", "ours", spec={"clusterIP": "10.0.0.7"})
    job = render.job(Submission("digits"))
    job["spec"]["template"]["spec"]["subdomain"] = "ours"
    found = setup.check_service(cluster.given(), job)
    assert found.remedy == "correct it, or use an overlay that names the Service mnist-job"
