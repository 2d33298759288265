"""What can keep a run from starting, or end it: the symptom, cause and remedy of each problem, as data.

`why` and `preflight` take their remedies from here. `python -m k8s.diagnose.catalogue` prints docs/troubleshooting.md.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """Why a run is in trouble, what to do, and what `status` shows.

    The remedy is a template: remedy() fills in names. The default symptom is that of most problems.
    """

    cause: str
    remedy: str
    symptom: str = "failed: {reason}"


NO_PODS, NO_NODES = "starting 0 of 4 pods created", "waiting for nodes"
PULLING = "pulling 0 of 4 running, ErrImagePull"
RESTARTED, REPLACED = "a worker is restarted ({reason})", "a worker is replaced ({reason})"
FAILED_OR_REPLACED = "failed: {reason}, or a worker is replaced ({reason})"
RESTARTED_OR_REPLACED = "a worker is restarted or replaced ({reason})"
CONTINUES = "none needed: the run continues from its last checkpoint"
# By the reason, a short fixed word for tools. They are in the order in which a run could meet them.
PROBLEMS: dict[str, Problem] = {
    # Before the pods exist
    "queued": Problem(
        "Kueue has not admitted the run yet",
        "none needed if the queue only lacks room: Kueue starts the run once it has room; otherwise correct what "
        "Kueue names; `kubectl describe workloads {flags}` shows the details",
        "{reason}",
    ),
    "suspended": Problem(
        "a user suspended the run",
        "`mnist-job resume {run} {flags}` continues it from its last checkpoint",
        "{reason}",
    ),
    "cancelled": Problem(
        "a user cancelled the run",
        "`mnist-job retry {run} {flags}` continues it from its last checkpoint",
        "{reason}",
    ),
    "schedule-suspended": Problem(
        "a user suspended the schedule",
        "`mnist-job resume {schedule} {flags}` lets it start runs again",
        "schedule: suspended",
    ),
    "schedule-held-up": Problem(
        "a run of the schedule is suspended, and the schedule starts no other run before that one ends",
        "`mnist-job resume {run} {flags}` continues the run; `mnist-job cancel {run} {flags}` lets the next one start",
        "schedule: held up",
    ),
    "schedule-overlap": Problem(
        "a run was due while another run of the schedule had not ended",
        "leave more time between the starts, or make the runs shorter",
        "schedule: missed",
    ),
    "schedule-missed": Problem(
        "the cluster did not start a run in time, or the schedule was suspended or had other times then",
        "check that the kube-controller-manager is running; `mnist-job trigger {schedule} {flags}` starts a run now",
        "schedule: missed",
    ),
    "quota": Problem(
        "the namespace's quota has no room for another worker",
        "request less (--cpu, --memory, --workers), or ask for a larger quota",
        NO_PODS,
    ),
    "quota-unset": Problem(
        "the namespace's quota counts a resource that the pods do not set",
        "set what the message names in an overlay, or let a LimitRange set it",
        NO_PODS,
    ),
    "limits": Problem(
        "a worker requests more or less than the namespace's LimitRange allows",
        "request what the message allows (--cpu, --memory), or ask for another LimitRange",
        NO_PODS,
    ),
    "pod-security": Problem(
        "the pods violate the namespace's Pod Security level",
        "keep the security settings of the manifests, or use another namespace",
        NO_PODS,
    ),
    "security-context-constraint": Problem(
        "OpenShift lets the pods' service account use only user numbers of the namespace's own range",
        "ask an administrator to run `oc adm policy add-scc-to-user nonroot-v2 -z {account} {flags}`",
        NO_PODS,
    ),
    "service-account": Problem(
        "the service account of the pods does not exist",
        "create it: `kubectl create serviceaccount {account} {flags}`",
        NO_PODS,
    ),
    "refused": Problem(
        "an admission webhook, an admission policy or the API server refuses the pods",
        "change what the message names, or ask the cluster's administrator",
        NO_PODS,
    ),
    "webhook": Problem(
        "the program behind an admission webhook does not answer, so the API server refuses the pods",
        "wait until it runs again, or ask the cluster's administrator; its address has the form SERVICE.NAMESPACE.svc",
        NO_PODS,
    ),
    # Before they have a node
    "scheduling": Problem(
        "no node has enough free resources, or none is allowed",
        "request less (--cpu, --memory, --gpus, --workers), change --node-selector or --toleration, or add nodes",
        NO_NODES,
    ),
    "gpu": Problem(
        "no node has a free GPU",
        "add a node with GPUs and NVIDIA's device plugin, or train on CPUs: --overlay cpu",
        NO_NODES,
    ),
    "volume-node": Problem(
        "the nodes with free resources cannot reach the volume",
        "free resources on the volume's node, or choose a claim that all nodes can reach with --claim",
        NO_NODES,
    ),
    "claim-missing": Problem(
        "the claim for the output does not exist", "create the claim, or choose another one with --claim", NO_NODES
    ),
    "claim-unbound": Problem(
        "the claim has no volume",
        "check its storage class, which must exist and be able to provision the volume: `kubectl describe pvc "
        "{claim} {flags}`",
        NO_NODES,
    ),
    # Before they run
    "image-missing": Problem(
        "the registry has no image of that name, tag or digest",
        "correct --image, or push the image: `make push` prints its name by digest; `make load` loads it into the "
        "nodes of kind and minikube",
        PULLING,
    ),
    "image-login": Problem(
        "the registry requires a login or refuses this one; some registries say the same if they lack the image",
        "check the image's name (`make load` loads it into the nodes of kind and minikube), or give the pods a pull "
        "secret: `kubectl create secret docker-registry pull --docker-server=REGISTRY --docker-username=USER "
        "--docker-password=PASSWORD {flags}`, then `kubectl patch serviceaccount {account} --patch "
        "'imagePullSecrets: [name: pull]' {flags}`; {new_pods}",
        PULLING,
    ),
    "image-untrusted": Problem(
        "the node does not trust the registry's certificate, or the registry has none",
        "let each node trust it; for containerd, copy the certificate of its authority to "
        "/etc/containerd/certs.d/REGISTRY/ca.crt on the node",
        PULLING,
    ),
    "image-architecture": Problem(
        "the image is for another processor architecture than the node's",
        'build it for the node\'s, for example with `make push IMAGE=REGISTRY/NAME:TAG ARGS="--platform linux/amd64"`, '
        "or choose other nodes, for example with --node-selector kubernetes.io/arch=arm64",
        f"{PULLING}, or a worker is replaced ({{reason}})",
    ),
    "image": Problem(
        "a node cannot pull the image",
        "check the image's name, and that the nodes can pull it; `make load` loads it into the nodes of kind and "
        "minikube",
        PULLING,
    ),
    "volume": Problem(
        "a volume cannot be attached or mounted",
        "see `kubectl describe pod {pod} {flags}`",
        "starting 0 of 4 running",
    ),
    "volume-group": Problem(
        "the storage does not let a node give the volume's files to the pods' group",
        "give the group 65532 write access on the server, for example with `chgrp 65532` and `chmod 2775`, or remove "
        "fsGroup in an overlay",
        "starting 0 of 4 running",
    ),
    "volume-in-use": Problem(
        "another pod uses the claim, which only one node or one pod can use at a time",
        "none needed if that pod ends soon; otherwise keep all pods that use the claim on one node (--component "
        "one-node), or choose a ReadWriteMany claim with --claim",
        "starting 0 of 4 running",
    ),
    "configuration": Problem(
        "the pod refers to something that does not exist, such as a Secret or a ConfigMap",
        "create what the message names, or remove it from the overlay",
        "starting 0 of 4 running, CreateContainerConfigError",
    ),
    "container-waits": Problem(
        "an init container has not ended or a sidecar is not ready, so the trainer does not start",
        "none needed if it takes only a moment; otherwise `kubectl logs {pod} -c {container} {flags}` shows what it "
        "waits for",
        "starting 0 of 4 running, init container NAME runs",
    ),
    "container-failed": Problem(
        "a container that was added to the pods failed, so the pod cannot start or counts as failed",
        "`kubectl logs {pod} -c {container} {flags}` shows why; fix that container, or keep it out of the pods",
        "starting 0 of 4 running, CrashLoopBackOff in sidecar NAME, or a worker is replaced ({reason})",
    ),
    "start-error": Problem(
        "the image does not contain the command", "use an image that was built from this project's Dockerfile: --image"
    ),
    "dead-node": Problem(
        "a worker's node is unreachable, and Kubernetes replaces a pod only once it knows that it has stopped",
        "bring the node back, delete it (`kubectl delete node {node} {flags}`) or, once it is shut down, mark it as "
        "such: `kubectl taint node {node} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute {flags}`",
        "joining 3/4, or training without progress",
    ),
    # Until they have met
    "peers-missing": Problem(
        "a worker did not join within --join-timeout, or cannot reach rank 0 on port 9100",
        "`mnist-job status {run} {flags}` shows which worker did not start; check that the network lets the workers "
        "reach each other",
        "joining 3/4",
    ),
    "not-joined": Problem(
        "all workers joined, but they cannot reach each other on TensorFlow's port",
        "open port 2222 between the workers; the setup's NetworkPolicy does so unless another policy of the "
        "namespace forbids it",
        "joining 4/4, and ranks are restarted ({reason})",
    ),
    "port-taken": Problem(
        "another process uses TensorFlow's port 2222 or the supervisor's port 9100",
        "stop the process that uses the port; pods that use their node's network cannot share a node",
        "joining, and ranks are restarted ({reason})",
    ),
    "same-address": Problem(
        "two workers have the same address",
        "give each worker a POD_IP or a port of its own",
        "joining, and ranks are replaced ({reason})",
    ),
    "run-in-use": Problem(
        "another process that trains this run holds its lock: usually rank 0's previous pod, whose lock the volume "
        "has not released yet",
        "none needed if the run continues once rank 0 is replaced; otherwise stop the process or pod that trains the "
        "run",
        "starting, and rank 0 is replaced ({reason})",
    ),
    # Once they run
    "stopped": Problem(
        "the worker was asked to stop, for example by a drain, an eviction or `kubectl delete`", CONTINUES, REPLACED
    ),
    "stopped-by-peer": Problem("another worker was asked to stop, and all workers stop together", CONTINUES, RESTARTED),
    "peer-lost": Problem("another worker failed: see that worker's reason", CONTINUES, RESTARTED),
    "gathering": Problem("another worker restarted or joined, and all workers restart together", CONTINUES, RESTARTED),
    "peers-lost": Problem(
        "the other workers were lost several times without a new step",
        "check why they failed, and check that TensorFlow's port 2222 is open between all workers",
        FAILED_OR_REPLACED,
    ),
    "stalled": Problem(
        "the worker's trainer completed no step within --stall-timeout, or its process was frozen",
        "none needed if the run continues; otherwise check the load of the node, or raise --stall-timeout",
        RESTARTED,
    ),
    "trainer-hangs": Problem(
        "the worker's trainer cannot be killed, usually because a volume does not respond",
        "check the volume's server and the node",
        REPLACED,
    ),
    "output-io": Problem(
        "the output volume failed temporarily: an input/output error, a stale handle or a lost connection",
        "none needed if the run continues; otherwise check the volume's server",
        RESTARTED_OR_REPLACED,
    ),
    "dataset-io": Problem(
        "the dataset could not be read completely",
        "none needed if the run continues; otherwise check the volume or the image that holds the dataset",
        RESTARTED_OR_REPLACED,
    ),
    "temporary-io": Problem(
        "the folder for temporary files, /tmp, failed temporarily",
        "none needed if the run continues; otherwise check the node's disk",
        RESTARTED_OR_REPLACED,
    ),
    "system-io": Problem(
        "the node failed temporarily: it could not read the program's files, or had no room for another open file",
        "none needed if the run continues; otherwise check the node's disk and its limit of open files",
        RESTARTED_OR_REPLACED,
    ),
    "no-process": Problem(
        "the node, or the worker's limit of processes, had no room for another process or thread",
        "none needed if the run continues; otherwise raise the node's limit of processes per pod (the kubelet's "
        "podPidsLimit), or run fewer pods on it",
        REPLACED,
    ),
    "no-gpu": Problem(
        "TensorFlow found no GPU on the worker's node, usually because the node's driver does not work",
        "check the node: `kubectl describe node {node} {flags}`; `kubectl cordon {node} {flags}` keeps workers away "
        "from it until it is repaired; once the run has failed, `mnist-job retry {run} {flags}`",
        FAILED_OR_REPLACED,
    ),
    "cpu-unfit": Problem(
        "the CPU of the worker's node lacks an instruction that TensorFlow needs, such as AVX",
        "submit the run under another --name, to nodes with another CPU (--node-selector) or with an image whose "
        "TensorFlow was built for this one (--image)",
    ),
    "restarts-used-up": Problem(
        "a worker was restarted several times without a new step",
        "`mnist-job logs {run} --rank {rank} {flags}` shows its last lines; fix the cause, then run `mnist-job retry "
        "{run} {flags}`",
        FAILED_OR_REPLACED,
    ),
    "chief-lost": Problem(
        "with --min-workers, worker 0 was replaced as often as the Job allows; the others wait for it until they give "
        "up, or until the run's deadline",
        "`mnist-job logs {run} --rank 0 {flags}` shows its last lines; fix the cause, then run `mnist-job cancel {run} "
        "{flags}` and `mnist-job retry {run} {flags}`",
        "stuck worker 0 failed too often",
    ),
    "unknown-code": Problem(
        "a process ended with an exit code that the job does not use, and left no message",
        "see the last lines of the log; the image's entry point must be this project's",
        FAILED_OR_REPLACED,
    ),
    "out-of-memory": Problem(
        "a worker used more memory than its limit",
        "once the run has failed, raise the limit: `mnist-job retry {run} --memory {memory} {flags}`; or submit it "
        "with a smaller --batch-size under another --name",
    ),
    "evicted": Problem(
        "the node, or a volume with a size limit, ran out of the resource that the message names",
        "raise that limit, or free the resource on the node; an evicted worker is replaced",
    ),
    "killed": Problem(
        "the worker's main process was killed, by a fault in native code or from outside",
        "run `mnist-job retry {run} {flags}`; if it happens again, report it with the last lines of the log",
    ),
    "container-goes-on": Problem(
        "a container that was added to the pods still runs after the trainer has ended, so the Job does not end",
        "keep container {container} out of the pods, or make it a native sidecar (an init container with restartPolicy "
        "Always), which ends with the trainer; `mnist-job cancel {run} {flags}` ends this run, and a published model "
        "stays on the volume",
        "ending 0 of 4 pods ended, container NAME still runs",
    ),
    "container-status-unknown": Problem(
        "the worker's node was unreachable or rebooted when the worker ended",
        "none needed if the worker is replaced; otherwise check that the nodes stay up",
    ),
    "deadline-exceeded": Problem(
        "the run did not finish within its deadline",
        "give it more time: `mnist-job retry {run} --deadline {deadline} {flags}`",
    ),
    "rejected": Problem(
        "the accuracy is below --min-accuracy, or that of a class below --min-class-accuracy, or the accuracy is worse "
        "than that of the `latest` model; the model is published, but `latest` was not changed",
        "`mnist-job compare --claim {claim} {flags}` compares them; `mnist-job promote {run} {flags}` makes it "
        "`latest` anyway",
        "{reason}",
    ),
    "usage": Problem(
        "a flag or an environment variable is wrong",
        "fix what the message names, and submit the run under another --name",
    ),
    "run-taken": Problem(
        "the volume holds a run of this name that another Job started",
        "submit it under another --name; or continue that run, if the flags are those that it had: `mnist-job retry "
        "{run} {flags}`",
    ),
    "dataset-damaged": Problem(
        "the dataset is damaged, or is not the one that the run started with",
        "check it on your machine: `python -m job data` says what is damaged; move that folder away, run it again, and "
        "put the new image on the nodes (`make load` or `make push`) or copy the dataset to a new claim (`mnist-job "
        "data put data/mnist --claim CLAIM {flags}`)",
    ),
    "dataset-missing": Problem(
        "there is no dataset at /data",
        "use an image that contains the dataset (`make load` or `make push`), or copy it to a claim with `mnist-job "
        "data put data/mnist {flags}` and submit with --data mnist-job-data",
    ),
    "dataset-unprepared": Problem(
        "the dataset's folder has no fingerprint.json or no decoded arrays",
        "prepare the dataset: `python -m job data`, then `make load` or `make push`",
    ),
    "dataset-unreadable": Problem(
        "the workers cannot read the dataset: they have no permission, or something else is in its place",
        "make the path in the message a file or folder that user and group 65532 can read",
    ),
    "dataset-other": Problem(
        "the dataset is not the one that the run started with, or not the one that its folder is named after",
        "provide the original dataset, or choose another --name",
    ),
    "bug": Problem("an uncaught exception", "report it with the last lines of the log"),
    "output-not-writable": Problem(
        "the volume is full or read-only, or the pods' user has no permission to write to it",
        "free space, or change the volume's mode and owner: the workers write as user and group 65532",
    ),
    "temporary-not-writable": Problem(
        "the folder for temporary files, /tmp, is full or cannot be written",
        "raise the sizeLimit of the volume `tmp` in an overlay, and submit the run under another --name",
    ),
    "output-link": Problem(
        "there is a symbolic link where the run writes, and the job never writes through one",
        "remove the link that the message names",
    ),
    "output-damaged": Problem(
        "a file that this run wrote earlier is damaged", "restore what the message names, or choose another --name"
    ),
    "loss-not-finite": Problem("the training diverged", "use a smaller --learning-rate, and another --name"),
    "other-settings": Problem(
        "the run was started with other flags, or none of its checkpoints is intact",
        "use the original flags, or choose another --name",
    ),
    "other-model": Problem(
        "model.py is not the one that the run began with",
        "give the original model (--model, or the image that contains it), or choose another --name",
    ),
    "other-workers": Problem(
        "the run has --sync-every above 1, and was started with another number of workers",
        "use the number of workers that the message names (--workers)",
    ),
    "checkpoints-damaged": Problem(
        "none of the run's checkpoints is intact", "restore an intact one, or choose another --name to start over"
    ),
}
# Parts of the API server's refusal of a pod, and the reason of each.
REFUSAL_REASONS = {
    "exceeded quota": "quota",
    "failed quota": "quota-unset",
    "violates PodSecurity": "pod-security",
    "security context constraint": "security-context-constraint",
    "per Container": "limits",
    "per Pod": "limits",
    "error looking up service account": "service-account",
    " does not answer: ": "webhook",
}


NEW_PODS = "only new pods get it: `mnist-job cancel {run} {flags}`, then `mnist-job retry {run} {flags}`"


class _Names(dict[str, str]):
    """The values of a template; one that is not known is shown as its name in capitals."""

    def __missing__(self, key: str) -> str:
        return key.upper()


def remedy(reason: str, *, flags: str = "", new_pods: str = NEW_PODS, **names: str) -> str:
    """What to do about a problem, with names filled in; empty for a reason that is not in the catalogue.

    Args:
        reason: its key in PROBLEMS.
        flags: those that select the namespace and the cluster, for mnist-job and kubectl alike.
        new_pods: how to start pods again after a change that only new ones get; by default, those of a run.
        names: the run, schedule, pod, node, claim and so on that the remedy may name.
    """
    template = PROBLEMS[reason].remedy.replace("{new_pods}", new_pods) if reason in PROBLEMS else ""
    return template.replace(" {flags}", f" {flags}" if flags else "").format_map(_Names(names))


def refusal_reason(message: str) -> str:
    """The reason, a key of PROBLEMS, why the API server refused a pod with this message."""
    return next((reason for text, reason in REFUSAL_REASONS.items() if text in message), "refused")


HEAD = """\
# Troubleshooting on Kubernetes

`mnist-job why RUN` says which of these problems a run has, on which worker and since when, and shows the last lines of
that worker's log. It fills in the names of the run, its namespace and so on.

| `status` shows | reason | cause | remedy |
|---|---|---|---|
"""


def troubleshooting_page() -> str:
    """docs/troubleshooting.md, a row for each problem."""
    return HEAD + "".join(
        f"| {problem.symptom.format(reason=reason)} | {reason} | {problem.cause} | {remedy(reason)} |\n"
        for reason, problem in PROBLEMS.items()
    )


if __name__ == "__main__":
    print(troubleshooting_page(), end="")
