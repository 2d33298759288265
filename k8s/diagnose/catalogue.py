"""What can keep a run from starting, or end it: the symptom, cause and remedy of each problem, as data.

`why` and `preflight` take their remedies from here. `python -m k8s.diagnose.catalogue` prints docs/troubleshooting.md.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """What `status` shows, why, and what to do. The remedy is a template: remedy() fills in names."""

    symptom: str
    cause: str
    remedy: str


CONTINUES = "none needed: the run continues from its last checkpoint"
# By the reason, a short fixed word for tools. The order is that in which a run could meet them.
PROBLEMS: dict[str, Problem] = {
    # Before the pods exist
    "queued": Problem(
        "queued",
        "Kueue has not admitted the run yet",
        "none needed: Kueue starts it when its queue has room; `kubectl describe workloads {flags}` shows "
        "what it waits for",
    ),
    "suspended": Problem(
        "suspended",
        "somebody suspended the run",
        "`mnist-job resume {run} {flags}` continues it from its last checkpoint",
    ),
    "cancelled": Problem(
        "cancelled",
        "somebody cancelled the run",
        "`mnist-job retry {run} {flags}` continues it from its last checkpoint",
    ),
    "schedule-suspended": Problem(
        "schedule: suspended",
        "somebody suspended the schedule",
        "`mnist-job resume {schedule} {flags}` lets it start runs again",
    ),
    "schedule-held-up": Problem(
        "schedule: held up",
        "a run of the schedule is suspended or cancelled, and the schedule starts no other run before that one ends",
        "`mnist-job resume {run} {flags}` continues the run; `mnist-job cancel {run} {flags}` makes way for "
        "the next one",
    ),
    "schedule-overlap": Problem(
        "schedule: missed",
        "a run was due while another run of the schedule had not ended",
        "leave more time between the starts, or make the runs shorter",
    ),
    "schedule-missed": Problem(
        "schedule: missed",
        "the cluster did not start a run in time, or the schedule was suspended or had other times then",
        "check that the kube-controller-manager is running; `mnist-job trigger {schedule} {flags}` starts a run now",
    ),
    "quota": Problem(
        "starting 0 of 4 pods made",
        "the namespace's quota has no room for another worker",
        "request less (--cpu, --memory, --workers), or have the quota raised",
    ),
    "limits": Problem(
        "starting 0 of 4 pods made",
        "a worker requests more or less than the namespace's LimitRange allows",
        "request what the message allows (--cpu, --memory), or have the LimitRange changed",
    ),
    "pod-security": Problem(
        "starting 0 of 4 pods made",
        "the pods violate the namespace's Pod Security level",
        "keep the security settings of the manifests, or use another namespace",
    ),
    "service-account": Problem(
        "starting 0 of 4 pods made",
        "the service account of the pods does not exist",
        "create it: `kubectl create serviceaccount {account} {flags}`",
    ),
    "refused": Problem(
        "starting 0 of 4 pods made",
        "an admission webhook, an admission policy or the API server refuses the pods",
        "change what the message names, or ask the cluster's administrator",
    ),
    # Before they have a node
    "scheduling": Problem(
        "waiting for nodes",
        "no node has enough free resources, or none is allowed",
        "request less (--cpu, --memory, --gpus, --workers), change --node-selector or --toleration, or add nodes",
    ),
    "gpu": Problem(
        "waiting for nodes",
        "no node has a free GPU",
        "add a node with GPUs and NVIDIA's device plugin, or train on CPUs: --overlay cpu",
    ),
    "volume-node": Problem(
        "waiting for nodes",
        "the nodes with free resources cannot reach the volume",
        "free resources on the volume's node, or choose a claim that all nodes can reach with --claim",
    ),
    "claim-missing": Problem(
        "waiting for nodes",
        "the claim for the output does not exist",
        "create the claim, or choose another one with --claim",
    ),
    "claim-unbound": Problem(
        "waiting for nodes",
        "the claim has no volume",
        "check its storage class, which must exist and be able to provision the volume: `kubectl describe "
        "pvc {claim} {flags}`",
    ),
    # Before they run
    "image": Problem(
        "pulling 0 of 4 run, ErrImagePull",
        "a node cannot pull the image",
        "check the image's name, and that the nodes may pull it; `make load` loads it into the nodes of kind "
        "and minikube",
    ),
    "volume": Problem(
        "starting 0 of 4 run",
        "a volume cannot be attached or mounted",
        "see `kubectl describe pod {pod} {flags}`; if the claim is ReadWriteOnce, keep all workers on one "
        "node: --component one-node",
    ),
    "configuration": Problem(
        "starting 0 of 4 run, CreateContainerConfigError",
        "the pod refers to something that does not exist, such as a Secret or a ConfigMap",
        "create what the message names, or remove it from the overlay",
    ),
    "start-error": Problem(
        "failed: start-error",
        "the image does not contain the command",
        "use an image that was built from this project's Dockerfile: --image",
    ),
    "dead-node": Problem(
        "joining 3/4, or training without progress",
        "a worker's node is unreachable, and Kubernetes replaces a pod only once it knows that it has stopped",
        "bring the node back, delete it (`kubectl delete node {node} {flags}`) or, once it is shut down, "
        "mark it as such: `kubectl taint node {node} "
        "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute {flags}`",
    ),
    # Until they have met
    "peers-missing": Problem(
        "joining 3/4",
        "a worker did not join within --join-timeout, or cannot reach rank 0 on port 9100",
        "`mnist-job status {run} {flags}` shows which worker did not start; check that the network lets the "
        "workers reach each other",
    ),
    "not-joined": Problem(
        "joining 4/4, and ranks are restarted (not-joined)",
        "all workers joined, but they cannot reach each other on TensorFlow's port",
        "open port 2222 between the workers; the setup's NetworkPolicy does so unless another policy of the "
        "namespace forbids it",
    ),
    "port-taken": Problem(
        "joining, and ranks are restarted (port-taken)",
        "another process uses TensorFlow's port 2222 or the supervisor's port 9100",
        "stop the process that uses the port; pods that use their node's network cannot share a node",
    ),
    "same-address": Problem(
        "joining, and ranks are replaced (same-address)",
        "two workers have the same address",
        "give each worker a POD_IP or a port of its own",
    ),
    "run-in-use": Problem(
        "starting, and rank 0 is replaced (run-in-use)",
        "another process that trains this run holds its lock: usually rank 0's previous pod, whose end the "
        "volume has not noticed yet",
        "none needed if the run continues once rank 0 is replaced; otherwise stop the process or pod that "
        "trains the run",
    ),
    # Once they run
    "stopped": Problem(
        "a worker is replaced (stopped)",
        "the worker was told to stop, for example by a drain, an eviction or `kubectl delete`",
        CONTINUES,
    ),
    "stopped-by-peer": Problem(
        "a worker is restarted (stopped-by-peer)",
        "another worker was told to stop, and all workers stop together",
        CONTINUES,
    ),
    "peer-lost": Problem(
        "a worker is restarted (peer-lost)",
        "another worker failed: see that worker's reason",
        CONTINUES,
    ),
    "gathering": Problem(
        "a worker is restarted (gathering)",
        "another worker restarted, and all workers restart together",
        CONTINUES,
    ),
    "peers-lost": Problem(
        "failed: peers-lost, or a worker is replaced (peers-lost)",
        "the other workers were lost several times without a new step",
        "find out why they failed, and check that TensorFlow's port 2222 is open between all workers",
    ),
    "stalled": Problem(
        "a worker is restarted (stalled)",
        "its trainer completed no step within --stall-timeout, or its process was frozen",
        "none needed if the run continues; otherwise check the load of the node, or raise --stall-timeout",
    ),
    "trainer-hangs": Problem(
        "a worker is replaced (trainer-hangs)",
        "its trainer cannot be killed, usually because a volume does not respond",
        "check the volume's server and the node",
    ),
    "output-io": Problem(
        "a worker is restarted or replaced (output-io)",
        "the output volume failed temporarily: a stale handle, an input/output error or a time-out",
        "none needed if the run continues; otherwise check the volume's server",
    ),
    "dataset-io": Problem(
        "a worker is restarted or replaced (dataset-io)",
        "the dataset could not be read completely",
        "none needed if the run continues; otherwise check the volume or the image that holds the dataset",
    ),
    "restarts-used-up": Problem(
        "failed: restarts-used-up, or a worker is replaced (restarts-used-up)",
        "a worker was restarted several times without a new step",
        "`mnist-job logs {run} --rank {rank} {flags}` shows its last lines; fix the cause, then `mnist-job "
        "retry {run} {flags}`",
    ),
    "unknown-code": Problem(
        "failed: unknown-code, or a worker is replaced (unknown-code)",
        "a process ended with an exit code that the job does not use, and left no message",
        "see the last lines of the log; the image's entry point must be this project's",
    ),
    "out-of-memory": Problem(
        "failed: out-of-memory",
        "a worker used more memory than its limit",
        "lower --batch-size or, once the run has failed, raise the limit: `mnist-job retry {run} --memory "
        "{memory} {flags}`",
    ),
    "evicted": Problem(
        "failed: evicted",
        "the node, or a volume with a size limit, ran out of the resource that the message names",
        "give the worker, the volume or the node more of it; an evicted worker is replaced",
    ),
    "killed": Problem(
        "failed: killed",
        "the worker's main process was killed, by a fault in native code or from outside",
        "`mnist-job retry {run} {flags}`; if it happens again, report it with the last lines of the log",
    ),
    "container-status-unknown": Problem(
        "failed: container-status-unknown",
        "the worker's node was away or rebooted when the worker ended",
        "none needed if the worker is replaced; otherwise check that the nodes stay up",
    ),
    "deadline-exceeded": Problem(
        "failed: deadline-exceeded",
        "the run did not finish within its deadline",
        "give it more time: `mnist-job retry {run} --deadline {deadline} {flags}`",
    ),
    "rejected": Problem(
        "rejected",
        "the accuracy is below --min-accuracy, or worse than that of the `latest` model; the model is "
        "published, but `latest` was not changed",
        "`mnist-job compare --claim {claim} {flags}` compares them; `mnist-job promote {run} {flags}` makes "
        "it `latest` anyway",
    ),
    "usage": Problem(
        "failed: usage",
        "a flag or an environment variable is wrong",
        "fix what the message names, and submit the run again",
    ),
    "run-taken": Problem(
        "failed: run-taken",
        "the volume holds a run of this name that another Job started",
        "choose another --name, or continue that run: `mnist-job submit --name {run} {flags} -- --continue`",
    ),
    "dataset-damaged": Problem(
        "failed: dataset-damaged",
        "the dataset is damaged, or is not the one that the run started with",
        "prepare it again: `make data`, then `make image`",
    ),
    "dataset-missing": Problem(
        "failed: dataset-missing",
        "there is no dataset at /data",
        "use an image that contains the dataset (`make image`), or a claim that does (--data)",
    ),
    "dataset-unprepared": Problem(
        "failed: dataset-unprepared",
        "the dataset's folder has no fingerprint.json",
        "prepare the dataset: `python -m job data`",
    ),
    "dataset-unreadable": Problem(
        "failed: dataset-unreadable",
        "the workers may not read the dataset",
        "make it readable for user and group 65532",
    ),
    "dataset-other": Problem(
        "failed: dataset-other",
        "the dataset is not the one that the run started with, or not the one that its folder is named after",
        "provide the original dataset, or choose another --name",
    ),
    "bug": Problem(
        "failed: bug",
        "an uncaught exception",
        "report it with the last lines of the log",
    ),
    "output-not-writable": Problem(
        "failed: output-not-writable",
        "the volume is full or read-only, or the pods' user may not write to it",
        "free space, or change the volume's mode and owner: the workers write as user and group 65532",
    ),
    "output-link": Problem(
        "failed: output-link",
        "there is a symbolic link where the run writes, and the job never writes through one",
        "remove the link that the message names",
    ),
    "output-damaged": Problem(
        "failed: output-damaged",
        "a file that this run wrote earlier is damaged",
        "restore what the message names, or choose another --name",
    ),
    "loss-not-finite": Problem(
        "failed: loss-not-finite",
        "the training diverged",
        "use a smaller --learning-rate",
    ),
    "other-settings": Problem(
        "failed: other-settings",
        "the run was started with other flags, or none of its checkpoints is intact",
        "use the original flags, or choose another --name",
    ),
    "other-workers": Problem(
        "failed: other-workers",
        "the run has --sync-every above 1, and was started with another number of workers",
        "use the number of workers that the message names: --workers",
    ),
    "checkpoints-damaged": Problem(
        "failed: checkpoints-damaged",
        "none of the run's checkpoints is intact",
        "restore an intact one, or choose another --name to start over",
    ),
}
# Parts of the API server's refusal of a pod, and the reason of each.
REFUSAL_REASONS = {
    "exceeded quota": "quota",
    "failed quota": "quota",
    "violates PodSecurity": "pod-security",
    "per Container": "limits",
    "per Pod": "limits",
    "error looking up service account": "service-account",
}


class _Names(dict[str, str]):
    """The values of a template; one that is not known is shown as its name in capitals."""

    def __missing__(self, key: str) -> str:
        return key.upper()


def remedy(reason: str, *, flags: str = "", **names: str) -> str:
    """What to do about a problem, with names filled in; empty for a reason that is not in the catalogue.

    Args:
        reason: its key in PROBLEMS.
        flags: those that select the namespace and the cluster, for mnist-job and kubectl alike.
        names: the run, schedule, pod, node, claim and so on that the remedy may name.
    """
    template = PROBLEMS[reason].remedy if reason in PROBLEMS else ""
    return template.replace(" {flags}", f" {flags}" if flags else "").format_map(_Names(names))


def refusal_reason(message: str) -> str:
    """The reason, a key of PROBLEMS, for which the API server refused a pod with this message."""
    return next((reason for text, reason in REFUSAL_REASONS.items() if text in message), "refused")


HEAD = """\
# Troubleshooting on Kubernetes

`mnist-job why RUN` says which of these problems a run has, on which worker and since when, and shows the last lines of
that worker's log. It fills in the names of the run, its namespace and so on.

| `status` shows | reason | cause | remedy |
|---|---|---|---|
"""


def page() -> str:
    """docs/troubleshooting.md, a row for each problem."""
    rows = (f"| {p.symptom} | {reason} | {p.cause} | {remedy(reason)} |\n" for reason, p in PROBLEMS.items())
    return HEAD + "".join(rows)


if __name__ == "__main__":
    print(page(), end="")
