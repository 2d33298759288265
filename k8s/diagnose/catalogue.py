"""What keeps a run in a cluster from going or ends it: the symptom, the cause and the remedy of each, as data.

`why` and preflight take their remedies from here, and docs/troubleshooting.md is printed from it: `python -m
k8s.catalogue`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """What `status` shows, why it is so, and what to do."""

    symptom: str
    cause: str
    remedy: str


GOES_ON = "nothing: it goes on from its last checkpoint"
PROBLEMS: dict[str, Problem] = {
    # Before the pods are there
    "queued": Problem(
        "queued", "Kueue does not let it run now", "nothing: Kueue starts it when there is room; see its Workload"
    ),
    "suspended": Problem("suspended", "somebody suspended it", "`mnist-job resume` goes on from the last checkpoint"),
    "cancelled": Problem(
        "cancelled", "somebody cancelled it", "`mnist-job retry` takes it up again from its last checkpoint"
    ),
    "schedule-suspended": Problem(
        "schedule: suspended", "somebody suspended the schedule", "`mnist-job resume` has it start runs again"
    ),
    "schedule-held-up": Problem(
        "schedule: held up",
        "a run of the schedule is suspended or cancelled half-way, and no two of its runs may overlap",
        "`mnist-job resume` of the run goes on with it, `mnist-job cancel` of it makes way for the next",
    ),
    "schedule-overlap": Problem(
        "schedule: missed", "a run was due while another one went on", "more time between the starts, or a faster run"
    ),
    "schedule-missed": Problem(
        "schedule: missed",
        "the cluster started no run in time, or could not, or the schedule was suspended or another then",
        "see whether the kube-controller-manager runs; `mnist-job trigger` starts a run now",
    ),
    "quota": Problem(
        "starting 0 of 4 pods made",
        "the namespace's quota has no room for another worker",
        "ask for less (--cpu, --memory, --workers), or have the quota raised",
    ),
    "limits": Problem(
        "starting 0 of 4 pods made",
        "a worker asks for more, or less, than the namespace's LimitRange lets a container have",
        "ask for what the sentence names (--cpu, --memory), or have the LimitRange changed",
    ),
    "pod-security": Problem(
        "starting 0 of 4 pods made",
        "the pods break the namespace's Pod Security level",
        "use the manifests' own security settings, or another namespace",
    ),
    "service-account": Problem(
        "starting 0 of 4 pods made",
        "the pods' service account is not there",
        "make it: `kubectl apply -k k8s/manifests/setup`",
    ),
    "refused": Problem(
        "starting 0 of 4 pods made",
        "an admission webhook or policy, or the API server, refuses the pods",
        "change what the sentence names, or ask who runs the cluster",
    ),
    # Before they have a node
    "scheduling": Problem(
        "waiting for nodes",
        "no node is large or free enough, or none is allowed",
        "ask for less (--cpu, --memory, --gpus, --workers), or add nodes",
    ),
    "gpu": Problem(
        "waiting for nodes",
        "no node has a GPU free",
        "add a node with GPUs and NVIDIA's device plugin, or train on CPUs: --overlay cpu",
    ),
    "volume-node": Problem(
        "waiting for nodes",
        "the nodes with room are not those that reach the volume",
        "make room on the volume's node, or use a volume that all nodes reach: --claim NAME",
    ),
    "claim-missing": Problem(
        "waiting for nodes",
        "the claim for the output is not there",
        "make the claim, or name another one with --claim",
    ),
    "claim-unbound": Problem(
        "waiting for nodes",
        "the claim has no volume",
        "see `kubectl describe pvc`: its storage class must exist and be able to make the volume",
    ),
    # Before they run
    "image": Problem(
        "pulling 0 of 4 run, ErrImagePull",
        "a node cannot get the image",
        "check the name and that the nodes may pull it; `make load` puts it on kind's and minikube's nodes",
    ),
    "volume": Problem(
        "starting 0 of 4 run",
        "a volume cannot be attached or mounted",
        "see `kubectl describe pod`; a ReadWriteOnce volume serves one node: --component one-node",
    ),
    "configuration": Problem(
        "starting 0 of 4 run, CreateContainerConfigError",
        "the pod names something that is not there, as a Secret or a ConfigMap",
        "make what the sentence names, or leave it out of the overlay",
    ),
    "start-error": Problem(
        "failed: start-error",
        "the image holds no such command",
        "use an image of this project's Dockerfile: --image",
    ),
    "dead-node": Problem(
        "joining 3/4, or training that stands still",
        "a worker's node does not answer, and Kubernetes replaces no pod of which it does not know that it ended",
        "bring the node back, delete the Node, "
        "or taint it: `kubectl taint node NODE node.kubernetes.io/out-of-service=nodeshutdown:NoExecute`",
    ),
    # Until they have met
    "peers-missing": Problem(
        "joining 3/4",
        "a worker has not come within --join-timeout, or does not reach rank 0 at port 9100",
        "see why it did not start: `mnist-job status NAME`; and that the network lets the workers reach each other",
    ),
    "not-joined": Problem(
        "joining 4/4, and ranks that start again (not-joined)",
        "all workers have come, and do not reach each other at TensorFlow's port",
        "open port 2222 between them: the setup's NetworkPolicy does, if no other one of the namespace forbids it",
    ),
    "port-taken": Problem(
        "joining, and ranks that start again (port-taken)",
        "another process has TensorFlow's port, 2222, or the supervisor's, 9100",
        "end what uses it; pods that share their node's network cannot share a node",
    ),
    "same-address": Problem(
        "joining, and ranks that are replaced (same-address)",
        "two workers were given one address",
        "give each a POD_IP or a port of its own",
    ),
    "run-in-use": Problem(
        "starting, and rank 0 replaced (run-in-use)",
        "a process that trains this run holds its lock: rank 0's last pod, whose end the volume has not seen yet",
        "nothing, if it goes on once it is replaced; else end the process or the pod that trains the run",
    ),
    # Once they run
    "stopped": Problem(
        "a worker replaced (stopped)", "it was told to stop, as by a drain, an eviction or `kubectl delete`", GOES_ON
    ),
    "stopped-by-peer": Problem(
        "a worker started again (stopped-by-peer)", "another worker was told to stop, and all stop together", GOES_ON
    ),
    "peer-lost": Problem("a worker started again (peer-lost)", "another worker ended: see that one's reason", GOES_ON),
    "gathering": Problem(
        "a worker started again (gathering)", "another worker started again, and all start together", GOES_ON
    ),
    "peers-lost": Problem(
        "failed: peers-lost, or a worker replaced for it",
        "the other workers were lost time and again without a new step",
        "see why they end, and whether TensorFlow's port, 2222, is open between all of them",
    ),
    "stalled": Problem(
        "a worker started again (stalled)",
        "its trainer made no step for --stall-timeout, or was itself stopped",
        "nothing, if it goes on; else see its node's load, or give a longer --stall-timeout",
    ),
    "trainer-hangs": Problem(
        "a worker replaced (trainer-hangs)",
        "its trainer cannot even be killed, as where its volume does not answer",
        "see that the volume's server is up, and the node sound",
    ),
    "output-io": Problem(
        "a worker started again, or replaced (output-io)",
        "the output volume failed for a moment: a stale handle, an input/output error, a time-out",
        "nothing, if it goes on; else see that the volume's server is up",
    ),
    "dataset-io": Problem(
        "a worker started again, or replaced (dataset-io)",
        "the dataset could not be read to its end",
        "nothing, if it goes on; else see the volume or the image that it is on",
    ),
    "restarts-used-up": Problem(
        "failed: restarts-used-up, or a worker replaced for it",
        "a worker was started again and again, and made no new step",
        "`mnist-job logs NAME --rank RANK` has its last words; mend that, then `mnist-job retry`",
    ),
    "unknown-code": Problem(
        "failed: unknown-code, or a worker replaced for it",
        "a process ended with a code that is none of the job's own, and said nothing of it",
        "see the lines of the log; the image's entry point must be this project's",
    ),
    "out-of-memory": Problem(
        "failed: out-of-memory",
        "a worker took more memory than its limit",
        "give it more: --memory 4Gi, or a smaller --batch-size",
    ),
    "evicted": Problem(
        "failed: evicted",
        "the node, or a volume with a size limit, ran out of what the sentence names",
        "give the worker, the volume or the node more of what the sentence names; an evicted worker is replaced",
    ),
    "killed": Problem(
        "failed: killed",
        "the worker's first process was killed, by a fault in native code or from outside",
        "`mnist-job retry`; if it comes back, report it with the lines of the log",
    ),
    "container-status-unknown": Problem(
        "failed: container-status-unknown",
        "the worker's node was away, or started anew, while it ended",
        "nothing, if it is replaced; else see that the nodes stay up",
    ),
    "deadline-exceeded": Problem(
        "failed: deadline-exceeded", "it was not done in time", "give it longer: retry with --deadline"
    ),
    "rejected": Problem(
        "rejected",
        "the model is below --min-accuracy or worse than the present one; it is published, and `latest` unmoved",
        "`mnist-job compare` shows both; `mnist-job promote` makes it `latest` all the same",
    ),
    "usage": Problem(
        "failed: usage", "a flag or an environment value is wrong", "mend what the sentence names, and submit it again"
    ),
    "run-taken": Problem(
        "failed: run-taken",
        "the volume holds a run of this name that another Job began",
        "use another --name, or take it up: `mnist-job submit --name NAME -- --continue`",
    ),
    "dataset-damaged": Problem(
        "failed: dataset-damaged",
        "the dataset is damaged, or another one than the run began with",
        "prepare it anew: `make data`, `make image`",
    ),
    "dataset-missing": Problem(
        "failed: dataset-missing",
        "there is no dataset at /data",
        "use an image with the dataset in it, `make image`, or a claim with it, `submit --data`",
    ),
    "dataset-unprepared": Problem(
        "failed: dataset-unprepared",
        "the folder of the dataset has no fingerprint.json",
        "prepare it: `python -m job data`",
    ),
    "dataset-unreadable": Problem(
        "failed: dataset-unreadable",
        "the workers may not read the dataset",
        "make it readable for user and group 65532",
    ),
    "dataset-other": Problem(
        "failed: dataset-other",
        "the dataset is not the one that the run began with, or not the one that its folder is named for",
        "give it that data again, or use another --name",
    ),
    "bug": Problem("failed: bug", "an uncaught exception", "report it with the lines of the log"),
    "output-not-writable": Problem(
        "failed: output-not-writable",
        "the volume is full, read-only, or not the pod's user's to write",
        "make room, or see the volume's mode and owner: the workers write as user and group 65532",
    ),
    "output-link": Problem(
        "failed: output-link",
        "a symbolic link stands where the run writes, and nothing is written through one",
        "remove the link that the sentence names",
    ),
    "output-damaged": Problem(
        "failed: output-damaged",
        "a file that this run wrote earlier is damaged",
        "put back what the sentence names, or use another --name",
    ),
    "loss-not-finite": Problem("failed: loss-not-finite", "the training diverged", "a smaller --learning-rate"),
    "other-settings": Problem(
        "failed: other-settings",
        "the run was begun with other flags, or none of its checkpoints is sound",
        "give the same flags again, or another --name",
    ),
    "other-workers": Problem(
        "failed: other-workers",
        "the run has --sync-every above 1, and was begun with another number of workers",
        "`mnist-job retry NAME --workers N` with the number that the sentence names",
    ),
    "checkpoints-damaged": Problem(
        "failed: checkpoints-damaged",
        "none of its checkpoints is sound",
        "put a sound one there, or use another --name to begin anew",
    ),
}
REMEDIES = {reason: trouble.remedy for reason, trouble in PROBLEMS.items()}
# What is in the API server's refusal of a pod.
REFUSAL_REASONS = {
    "exceeded quota": "quota",
    "failed quota": "quota",
    "violates PodSecurity": "pod-security",
    "per Container": "limits",
    "per Pod": "limits",
    "error looking up service account": "service-account",
}


def refusal_reason(told: str) -> str:
    """The reason for which the API server refuses a pod, as in PROBLEMS, by what it says."""
    return next((reason for text, reason in REFUSAL_REASONS.items() if text in told), "refused")


HEAD = """\
# When something is wrong on Kubernetes

`mnist-job why NAME` tells which of these it is, of which worker, since when, with the last lines of its log.

| `status` shows | reason | cause | what to do |
|---|---|---|---|
"""


def page() -> str:
    """docs/troubleshooting.md: each trouble in a row, in the order in which a run could meet them."""
    rows = (f"| {t.symptom} | {reason} | {t.cause} | {t.remedy} |\n" for reason, t in PROBLEMS.items())
    return HEAD + "".join(rows)


if __name__ == "__main__":
    print(page(), end="")
