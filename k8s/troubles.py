"""What keeps a run in a cluster from going or ends it: the symptom, the cause and the remedy of each, as data.

`why` and preflight take their remedies from here, and README its table.
"""

from __future__ import annotations

from dataclasses import dataclass

from job.errors import Exit


@dataclass(frozen=True)
class Trouble:
    """What `status` shows, why it is so, and what to do."""

    symptom: str
    cause: str
    remedy: str


@dataclass(frozen=True)
class Cause:
    """Why a run is as it is.

    reason is a short fixed word, for tools; code a worker's exit code, and meaning what that means. when is RFC 3339.
    pod is the name of the one that it is about; lines are the last of its log, or nothing.
    """

    reason: str
    sentence: str
    remedy: str = ""
    rank: int | None = None
    code: int | None = None
    meaning: str = ""
    when: str = ""
    pod: str = ""
    lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = [self.sentence + (f" ({self.when})" if self.when else "")]
        shown += [f"exit code {self.code}: {self.meaning}"] if self.meaning else []
        shown += [f"do: {self.remedy}"] if self.remedy else []
        shown += [f"the last lines of {self.pod}:", *(f"  {line}" for line in self.lines)] if self.lines else []
        return "\n".join(shown)


TROUBLES: dict[str, Trouble] = {
    # Before the pods are there
    "queued": Trouble(
        "queued", "Kueue has not let it start yet", "nothing: Kueue starts it when there is room; see its Workload"
    ),
    "suspended": Trouble("suspended", "somebody suspended it", "`mnist-job resume` goes on from the last checkpoint"),
    "cancelled": Trouble(
        "cancelled", "somebody cancelled it", "`mnist-job retry` takes it up again from its last checkpoint"
    ),
    "quota": Trouble(
        "starting 0 of 4 pods made",
        "the namespace's quota has no room for another worker",
        "ask for less (--cpu, --memory, --workers), or have the quota raised",
    ),
    "limits": Trouble(
        "starting 0 of 4 pods made",
        "a worker asks for more, or less, than the namespace's LimitRange lets a container have",
        "ask for what the sentence names (--cpu, --memory), or have the LimitRange changed",
    ),
    "pod-security": Trouble(
        "starting 0 of 4 pods made",
        "the pods break the namespace's Pod Security level",
        "use the manifests' own security settings, or another namespace",
    ),
    "service-account": Trouble(
        "starting 0 of 4 pods made",
        "the pods' service account is not there",
        "make it: `kubectl apply -k k8s/manifests/setup`",
    ),
    "refused": Trouble(
        "starting 0 of 4 pods made",
        "an admission webhook or policy, or the API server, refuses the pods",
        "change what the sentence names, or ask who runs the cluster",
    ),
    # Before they have a node
    "scheduling": Trouble(
        "waiting for nodes",
        "no node is large or free enough, or none is allowed",
        "ask for less (--cpu, --memory, --gpus, --workers), or add nodes",
    ),
    "gpu": Trouble(
        "waiting for nodes",
        "no node has a GPU free",
        "add a node with GPUs and NVIDIA's device plugin, or train on CPUs: --overlay cpu",
    ),
    "volume-node": Trouble(
        "waiting for nodes",
        "the nodes with room are not those that reach the volume",
        "make room on the volume's node, or use a volume that all nodes reach: --claim NAME",
    ),
    "claim-missing": Trouble(
        "waiting for nodes",
        "the claim for the output is not there",
        "make the claim, or name another one with --claim",
    ),
    "claim-unbound": Trouble(
        "waiting for nodes",
        "the claim has no volume",
        "see `kubectl describe pvc`: its storage class must exist and be able to make the volume",
    ),
    # Before they run
    "image": Trouble(
        "pulling 0 of 4 run, ErrImagePull",
        "a node cannot get the image",
        "check the name and that the nodes may pull it; `make load` puts it on kind's and minikube's nodes",
    ),
    "volume": Trouble(
        "starting 0 of 4 run",
        "a volume cannot be attached or mounted",
        "see `kubectl describe pod`; a ReadWriteOnce volume serves one node: --component one-node",
    ),
    "configuration": Trouble(
        "starting 0 of 4 run, CreateContainerConfigError",
        "the pod names something that is not there, as a Secret or a ConfigMap",
        "make what the sentence names, or leave it out of the overlay",
    ),
    "start-error": Trouble(
        "failed: start-error",
        "the image holds no such command",
        "use an image of this project's Dockerfile: --image",
    ),
    "dead-node": Trouble(
        "joining 3/4, or training that stands still",
        "a worker's node does not answer, and Kubernetes replaces no pod of which it does not know that it ended",
        "bring the node back, delete the Node, "
        "or taint it: `kubectl taint node NODE node.kubernetes.io/out-of-service=nodeshutdown:NoExecute`",
    ),
    # Once they run
    "out-of-memory": Trouble(
        "failed: out-of-memory",
        "a worker took more memory than its limit",
        "give it more: --memory 4Gi, or a smaller --batch-size",
    ),
    "evicted": Trouble(
        "failed: evicted",
        "the node, or a volume with a size limit, ran out of what the sentence names",
        "give the worker, the volume or the node more of what the sentence names; an evicted worker is replaced",
    ),
    "killed": Trouble(
        "failed: killed",
        "the worker's first process was killed, by a fault in native code or from outside",
        "`mnist-job retry`; if it comes back, report it with the lines of the log",
    ),
    "container-status-unknown": Trouble(
        "failed: container-status-unknown",
        "the worker's node was away, or started anew, while it ended",
        "nothing, if it is replaced; else see that the nodes stay up",
    ),
    "deadline-exceeded": Trouble(
        "failed: deadline-exceeded", "it was not done in time", "give it longer: retry with --deadline"
    ),
    "rejected": Trouble(
        "rejected",
        "the model is below --min-accuracy or worse than the present one; it is published, and `latest` unmoved",
        "`python -m job promote` makes it `latest` all the same, where the volume is mounted",
    ),
    "usage": Trouble(
        "failed: usage", "a flag or an environment value is wrong", "mend what the sentence names, and submit it again"
    ),
    "dataset-damaged": Trouble(
        "failed: dataset-damaged",
        "the dataset is damaged, or another one than the run began with",
        "prepare it anew: `make data`, `make image`",
    ),
    "dataset-missing": Trouble(
        "failed: dataset-missing", "there is no dataset at /data", "use an image with the dataset in it: `make image`"
    ),
    "bug": Trouble("failed: bug", "an uncaught exception", "report it with the lines of the log"),
    "output-not-writable": Trouble(
        "failed: output-not-writable",
        "the volume is full, read-only, or not the pod's user's to write",
        "make room, or see the volume's mode and owner: the workers write as user and group 65532",
    ),
    "loss-not-finite": Trouble("failed: loss-not-finite", "the training diverged", "a smaller --learning-rate"),
    "other-settings": Trouble(
        "failed: other-settings",
        "the run was begun with other flags, or none of its checkpoints is sound",
        "give the same flags again, or another --name",
    ),
}
REMEDIES = {reason: trouble.remedy for reason, trouble in TROUBLES.items()}
# What a fatal exit code most often means, where only the code is known.
OF_CODE: dict[int, str] = {
    Exit.USAGE: "usage",
    Exit.DATA_DAMAGED: "dataset-damaged",
    Exit.DATA_MISSING: "dataset-missing",
    Exit.REJECTED: "rejected",
    Exit.BUG: "bug",
    Exit.OUT_OF_MEMORY: "out-of-memory",
    Exit.OUTPUT: "output-not-writable",
    Exit.NOT_FINITE: "loss-not-finite",
    Exit.SETTINGS: "other-settings",
}
# What is in the API server's refusal of a pod.
REFUSALS = {
    "exceeded quota": "quota",
    "failed quota": "quota",
    "violates PodSecurity": "pod-security",
    "per Container": "limits",
    "per Pod": "limits",
    "error looking up service account": "service-account",
}


def of_refusal(told: str) -> str:
    """The reason for which the API server refuses a pod, as in TROUBLES, by what it says."""
    return next((reason for text, reason in REFUSALS.items() if text in told), "refused")
