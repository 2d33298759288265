"""Why a run failed or waits: the first cause, not the last symptom, from what the cluster shows of it. Pure."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from job.errors import Exit
from k8s.diagnose.explanation import Explanation, remedy_for
from k8s.diagnose.images import image_problem
from k8s.diagnose.pending import (
    VOLUME_EVENTS,
    list_workers,
    pending_causes,
    scheduling_problem,
    volume_error,
)
from k8s.state import events
from k8s.state.containers import describe_end, failed_container
from k8s.state.exits import (
    OTHER,
    REASON_OF_CODE,
    SECONDARY,
    clean_message,
    describe_code,
    first_cause,
    kebab_case,
)
from k8s.state.names import QUEUE_LABEL
from k8s.state.pods import has_finished, stage, started
from k8s.state.run import (
    DONE,
    FAILED,
    Run,
    decisive_exit,
    exhausted_ranks,
    failed_ranks,
    failing_pod,
    published_exit,
    state,
    trains_with_fewer,
)

if TYPE_CHECKING:
    from k8s.state.exits import ContainerExit

POD_DELETED = "its pod was deleted, and its message with it"
PODS_DELETED = "its pods were deleted, and their messages with them"
# A worker names its folders by --data and --output. In a cluster these are the image's folder and a volume.
FOLDER_CODES = {Exit.DATA_DAMAGED, Exit.DATA_MISSING, Exit.OUTPUT}
WORSE = "; the new model is worse beyond chance for "  # as job/output/promotion.py words it
WITHOUT_STEPS = {"starting", "waiting", "restarting", "failed"}


def explain_run(run: Run) -> Explanation:
    """Why a run failed, or what it waits for; or that nothing is wrong."""
    current = state(run)
    if run.condition(*DONE):
        accuracy = f" with a test accuracy of {current.accuracy:.4f}" if current.accuracy is not None else ""
        if current.detail:
            more = f"; `latest` was not changed: {current.detail}"
        else:  # the verdict's reason ends with the classes that became worse, if any did
            last = published_exit(run)
            more = "".join((last.message if last else "").partition(WORSE)[1:])
        return Explanation("published", f"nothing is wrong: the model is published{accuracy}{more}", code=0)
    if run.condition(*FAILED):
        return explain_failure(run)
    queue = run.job["metadata"].get("labels", {}).get(QUEUE_LABEL)
    stopped = {
        "queued": f"the run waits in the queue {queue}: {run.kueue or 'Kueue has not admitted it yet'}",
        "suspended": "the run is suspended; its checkpoint is kept",
        "cancelled": "the run was cancelled; its checkpoint is kept",
    }
    if current.word in stopped:
        return Explanation(current.word, stopped[current.word], remedy_for(run, current.word))
    if 0 in failed_ranks(run):
        return explain_lost_chief(run)
    if cause := next(pending_causes(run), None):
        return explain_fewer(run, cause) if trains_with_fewer(run) else with_quota(cause, queue)
    return explain_replacement(run) or explain_progress(run)


def explain_lost_chief(run: Run) -> Explanation:
    """Why a run whose rank 0 failed too often makes no step: Kubernetes counts it like any other worker."""
    failures = run.job["spec"].get("backoffLimitPerIndex", 0) + 1
    sentence = f"worker 0 failed {failures} times, the most that the Job allows, and the others cannot train without it"
    return Explanation("chief-lost", sentence, remedy_for(run, "chief-lost"), 0)


def explain_fewer(run: Run, cause: Explanation) -> Explanation:
    """What a run is doing while something prevents some of its workers from starting, and it trains without them."""
    current = state(run)
    joins = "" if current.done == 1 else "; once started, it joins at the next checkpoint"
    return dataclasses.replace(cause, sentence=f"nothing is wrong: {current}; {cause.sentence}{joins}")


def with_quota(cause: Explanation, queue: str | None) -> Explanation:
    """Why a run does not start, with a note that it keeps its quota meanwhile if Kueue has admitted it."""
    # Others may wait for that quota.
    held = f"; Kueue has admitted the run, so it keeps its quota of the queue {queue} meanwhile" if queue else ""
    return dataclasses.replace(cause, sentence=cause.sentence + held)


def explain_failure(run: Run) -> Explanation:
    """Why a run failed."""
    condition = run.condition(*FAILED) or {}
    reason, message, when = (condition.get(key, "") for key in ("reason", "message", "lastTransitionTime"))
    if reason == "DeadlineExceeded":
        return explain_deadline(run, when)
    if exhausted_ranks(run):
        return explain_replaced_too_often(run, when)
    if first := decisive_exit(run):
        return explain_exit(run, first)
    if fatal := failing_pod(run):
        return explain_deleted_pod(run, *fatal, when)
    return Explanation(kebab_case(reason), f"the Job failed: {message or reason}", when=when)


def explain_deleted_pod(run: Run, pod: str, code: int, when: str) -> Explanation:
    """Why a run failed, if only the name and the exit code of its failed pod are known."""
    indexed = re.search(r"-(\d+)-[a-z0-9]{5}$", pod)
    rank = int(indexed[1]) if indexed else None
    worker = pod if rank is None else f"worker {rank}"
    reason = REASON_OF_CODE.get(code, "unknown-code")
    sentence = f"{worker} exited with {code} ({reason}); {POD_DELETED}"
    remedy = remedy_for(run, reason, pod=pod, rank=str(rank))
    return Explanation(reason, sentence, remedy, rank, code, describe_code(code), when, pod)


def explain_deadline(run: Run, when: str) -> Explanation:
    """Why a run did not finish within its deadline, as far as traces of its deleted pods show."""
    sentence = f"the run did not finish within its deadline of {run.job['spec'].get('activeDeadlineSeconds')} s"
    failure = first_cause([each for each in run.exits if each.reason not in SECONDARY])
    first = explain_exit(run, failure) if failure else next(pending_causes(run), None) or explain_from_events(run)
    if first:
        # A worker that exited may have been replaced since then, and its replacement may have run for long.
        sentence += f"; {'before that' if failure else 'cause'}: {first.sentence}"
    elif events.newest(run.events, "Started"):
        sentence += f"; its workers were running: runs/{run.name}/events.jsonl on its volume shows how far they got"
    else:
        sentence += f"; {PODS_DELETED}"
    remedy = (first and first.remedy) or remedy_for(run, "deadline-exceeded")
    explanation = first or Explanation("", "")
    return dataclasses.replace(explanation, reason="deadline-exceeded", sentence=sentence, remedy=remedy, when=when)


def explain_from_events(run: Run) -> Explanation | None:
    """Why pods that were deleted had not started, from their events."""
    event = events.newest(run.events, "Started", "FailedScheduling", "Failed", *VOLUME_EVENTS)
    if not event or event["reason"] == "Started":
        return None
    template, message, pod = run.job["spec"]["template"], events.message(event), events.object_name(event)
    if event["reason"] == "FailedScheduling":
        reason, text = scheduling_problem(run, template, message)
    elif event["reason"] == "Failed":
        first = next(each for each in run.events if each.get("reason") == "Failed" and events.object_name(each) == pod)
        reason, text = start_error(events.message(first))
    else:
        reason, text = volume_error(template, message)
        text = f"could not mount a volume: {text}"
    return Explanation(reason, f"a worker {text}", remedy_for(run, reason, pod=pod), when=events.last_seen(event))


def start_error(message: str) -> tuple[str, str]:
    """Why a container did not start, from its event `Failed`: the reason, and the rest of a sentence."""
    if pulled := re.match(r'Failed to pull image "(.+?)"', message):
        reason, cause = image_problem(message)
        return reason, f"could not pull the image {pulled[1]}: {cause}"
    # The kubelet's other messages do not name the image, and `not found` in them is not about it.
    if re.match(r"Error: (ErrImage|ImagePull)", message):
        reason = "image"
    else:
        reason = "start-error" if "unable to start container process" in message else "configuration"
    return reason, f"could not start: {clean_message(message)}"


def explain_replaced_too_often(run: Run, when: str) -> Explanation:
    """Why a worker failed more often than the Job allows. Kubernetes itself gives no cause."""
    ranks = sorted(exhausted_ranks(run))
    failures = run.job["spec"].get("backoffLimitPerIndex", 0) + 1
    sentence = f"{list_workers(ranks)} failed {failures} times, the most that the Job allows"
    first = decisive_exit(run)
    if first is None:
        remedy = remedy_for(run, "restarts-used-up", rank=str(ranks[0]))
        return Explanation("restarts-used-up", f"{sentence}; {PODS_DELETED}", remedy, ranks[0], when=when)
    explanation = explain_exit(run, first)
    last = [exit_sentence(each) for each in run.exits if each.rank in ranks and each.code != Exit.OK]
    latest = f"; last failure: {last[-1]}" if last and last[-1] != exit_sentence(first) else ""
    return dataclasses.replace(explanation, sentence=f"{sentence}; first cause: {explanation.sentence}{latest}")


def exit_sentence(ended: ContainerExit) -> str:
    """How a worker ended, in a sentence."""
    how = "ended" if ended.code is None else f"exited with {ended.code}"
    by = f"; the cluster stopped it ({ended.disruption}), which does not count as a failure" if ended.disruption else ""
    return f"worker {ended.rank} {how} ({ended.reason}): {ended.message or 'it left no message'}{by}"


def explain_exit(run: Run, ended: ContainerExit) -> Explanation:
    """A worker's end as the cause, in its own words if it left any."""
    sentence = exit_sentence(ended)
    if (killing := events.newest(run.events, "Killing", of=ended.pod)) and "probe" in events.message(killing):
        sentence += f"; the kubelet killed it: {events.message(killing)}"
    node = next((pod["spec"].get("nodeName") for pod in run.pods if pod["metadata"]["name"] == ended.pod), None)
    names = {"pod": ended.pod, "rank": str(ended.rank), "container": ended.container} | ({"node": node} if node else {})
    known = remedy_for(run, ended.reason, **names)
    # The worker knows neither the volume nor the launcher's commands.
    prefer_known = ended.code in FOLDER_CODES or "`mnist-job" in known
    remedy = (known or ended.hint) if prefer_known else (ended.hint or known)
    meaning = describe_code(ended.code)
    return Explanation(ended.reason, sentence, remedy, ended.rank, ended.code, meaning, ended.when, ended.pod)


def failures_replaced(run: Run) -> list[ContainerExit]:
    """The failures of workers that are replaced, without those of workers that failed too often."""
    return [each for each in run.exits if each.code != Exit.OK and each.rank not in failed_ranks(run)]


def explain_replacement(run: Run) -> Explanation | None:
    """The end of a worker that is being replaced, while the run makes no steps."""
    if run.record is not None and run.record.phase not in WITHOUT_STEPS:
        return None
    failures = failures_replaced(run)
    # The last one: after the others, the run continued.
    primary = [each for each in failures if each.reason not in SECONDARY] or failures
    if not primary:
        return None
    last = primary[-1]
    explanation = explain_exit(run, last)
    counted = sum(each.rank == last.rank and each.counted for each in failures)
    most = run.job["spec"].get("backoffLimitPerIndex", 0) + 1
    count = f" (failure {counted} of at most {most})" if counted and last.counted else ""
    # A worker's own hint does not help if another worker or the cluster stopped it.
    remedy = remedy_for(run, last.reason, rank=str(last.rank)) if last.reason in SECONDARY else explanation.remedy
    return dataclasses.replace(explanation, sentence=f"{explanation.sentence}; it is replaced{count}", remedy=remedy)


def explain_progress(run: Run) -> Explanation:
    """What a run is doing, while nothing is known to be wrong."""
    current, record = state(run), run.record
    if failed := explain_failed_container(run):
        return failed
    if (record is None or record.phase == "waiting") and (missing := explain_missing_worker(run)):
        return missing
    if record and record.phase == "waiting":
        joined = record.message or f"{record.joined or 0} of {run.workers} workers joined"
        return Explanation("joining", f"the run waits for its workers: {joined}")
    if record and record.phase == "restarting":
        sentence = f"worker {record.rank} restarts its trainer ({record.reason}): {record.message}"
        return Explanation(record.reason or "restarting", sentence, rank=record.rank)
    failures = len(failures_replaced(run))
    pods = "1 pod ended early and was" if failures == 1 else f"{failures} pods ended early and were"
    sentence = f"nothing is wrong: {current}" + (f"; {pods} replaced" if failures else "")
    for rank in sorted(failed_ranks(run)):
        ends = [exit_sentence(each) for each in run.exits if each.rank == rank]
        sentence += f"; the run goes on without worker {rank}, which failed too often"
        sentence += f"; its last failure: {ends[-1]}" if ends else ""
    return Explanation("running", sentence)


def explain_failed_container(run: Run) -> Explanation | None:
    """A container that failed while its trainer still runs: the pod fails once the trainer ends."""
    for rank, pod in run.newest.items():
        failed = failed_container(pod)
        if failed is None or has_finished(pod):
            continue
        name, when = pod["metadata"]["name"], (failed.terminated or {}).get("finishedAt") or ""
        sentence = f"{state(run)}; but {failed} of worker {rank} {describe_end(failed)}"
        sentence += ": the pod counts as failed once its trainer ends"
        remedy = remedy_for(run, OTHER, pod=name, container=failed.name)
        return Explanation(OTHER, sentence, remedy, rank, when=when, pod=name)
    return None


def explain_missing_worker(run: Run) -> Explanation | None:
    """The first worker that the others wait for, if nothing is known to prevent it from starting."""
    for rank in sorted(set(range(run.workers)) - failed_ranks(run)):
        pod = run.newest.get(rank)
        if pod is not None and started(pod) and not has_finished(pod):
            continue
        if pod is None:
            status = "which has no pod yet"
        elif has_finished(pod):
            status = f"whose pod {pod['metadata']['name']} ended and is about to be replaced"
        else:
            status = f"whose pod {pod['metadata']['name']} {stage(pod)}"
        return Explanation("starting", f"the run waits for worker {rank}, {status}", rank=rank)
    return None
