"""Why a run failed or waits: the first cause, not the last symptom, from what the cluster shows of it. Pure."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from job.errors import Exit
from k8s.diagnose.catalogue import REMEDIES
from k8s.diagnose.explanation import Explanation
from k8s.diagnose.pending import UNMOUNTED, image_error, named, pending_causes, scheduling_problem, volume_error
from k8s.state import events
from k8s.state.exits import REASON_OF_CODE, SECONDARY, container_exits, describe_code, first_cause, kebab_case
from k8s.state.names import QUEUE_LABEL
from k8s.state.pods import is_over, stage, started
from k8s.state.run import DONE, FAILED, Run, culprit, fatal_pod, state, used_up

if TYPE_CHECKING:
    from k8s.state.exits import ContainerExit

GONE = "its pod is gone, and what it said with it"
# A worker speaks of its folders by --data and --output, which here are the image's and a volume.
OF_FOLDERS = {Exit.DATA_DAMAGED, Exit.DATA_MISSING, Exit.OUTPUT}
NOT_STEPPING = {"starting", "waiting", "restarting", "failed"}


def explain_run(run: Run) -> Explanation:
    """Why a run failed, or what it waits for; that nothing is wrong, where nothing is."""
    now = state(run)
    if run.condition(*DONE):
        accuracy = f" with a test accuracy of {now.accuracy:.4f}" if now.accuracy is not None else ""
        moved = f"; `latest` did not move: {now.detail}" if now.detail else ""
        return Explanation("published", f"nothing is wrong: it is published{accuracy}{moved}", code=Exit.OK)
    if run.condition(*FAILED):
        return failed(run)
    if now.word in ("queued", "suspended", "cancelled"):
        queue = run.job["metadata"].get("labels", {}).get(QUEUE_LABEL)
        sentences = {
            "queued": f"it waits in the queue {queue}: Kueue does not let it run now",
            "suspended": "it is suspended, its checkpoint kept",
        }
        return Explanation(
            now.word, sentences.get(now.word, "it was cancelled, its checkpoint kept"), REMEDIES[now.word]
        )
    return next(pending_causes(run), None) or ends_so_far(run) or at_work(run)


def failed(run: Run) -> Explanation:
    """What failed a run."""
    condition = run.condition(*FAILED) or {}
    reason, told, when = (condition.get(key, "") for key in ("reason", "message", "lastTransitionTime"))
    if reason == "DeadlineExceeded":
        return too_late(run, when)
    if used_up(run):
        return given_up(run, when)
    if ending := culprit(run):
        return of_ending(run, ending)
    if found := fatal_pod(run):
        pod, code = found
        rank = re.search(r"-(\d+)-[a-z0-9]{5}$", pod)
        who = f"worker {rank[1]}" if rank else pod
        word = REASON_OF_CODE.get(code, "unknown-code")
        sentence = f"{who} ended with {code} ({word}); {GONE}"
        remedy, meaning = REMEDIES.get(word, ""), describe_code(code)
        return Explanation(word, sentence, remedy, int(rank[1]) if rank else None, code, meaning, when, pod)
    return Explanation(kebab_case(reason), f"the Job failed: {told or reason}", when=when)


def too_late(run: Run, when: str) -> Explanation:
    """Why a run was not done within its deadline, as far as its pods, which it ended, have left anything behind."""
    seconds = run.job["spec"].get("activeDeadlineSeconds")
    sentence = f"it was not done within its deadline of {seconds} s"
    ending = first_cause([e for e in container_exits(run.pods) if e.reason not in SECONDARY])
    first = of_ending(run, ending) if ending else next(pending_causes(run), None) or left_behind(run)
    if first:
        # A worker that ended may have been replaced and gone on for long.
        held = "before that" if ending else "what held it up"
        sentence = f"{sentence}; {held}: {first.sentence}"
    elif events.last(run.events, "Started"):
        sentence = (
            f"{sentence}; its workers ran, and how far they came is in runs/{run.name}/events.jsonl on its volume"
        )
    else:
        sentence = f"{sentence}; its pods are gone, and what they said with them"
    remedy = (first and first.remedy) or REMEDIES["deadline-exceeded"]
    return dataclasses.replace(
        first or Explanation("", ""), reason="deadline-exceeded", sentence=sentence, remedy=remedy, when=when
    )


def left_behind(run: Run) -> Explanation | None:
    """What the events tell of pods that are gone and had not begun."""
    found = events.last(run.events, "Started", "FailedScheduling", "Failed", *UNMOUNTED)
    if not found or found["reason"] == "Started":
        return None
    template, told = run.job["spec"]["template"], events.message(found)
    if found["reason"] == "FailedScheduling":
        reason, text = scheduling_problem(run, template, told)
    elif found["reason"] == "Failed":
        first = next(e for e in run.events if e.get("reason") == "Failed" and events.about(e) == events.about(found))
        reason, text = "image", f"could not begin: {image_error(events.message(first))}"
    else:
        reason, text = volume_error(template, told)
        text = f"could not get its volume: {text}"
    return Explanation(reason, f"a worker {text}", REMEDIES[reason], when=events.when(found))


def given_up(run: Run, when: str) -> Explanation:
    """Why a worker was given up, of which Kubernetes says only that it failed too often."""
    ranks = sorted(used_up(run))
    ends = run.job["spec"].get("backoffLimitPerIndex", 0) + 1
    sentence = f"{named(ranks)} {'was' if len(ranks) == 1 else 'were'} given up after {ends} ends"
    first = culprit(run)
    if first is None:
        sentence = f"{sentence}; the pods are gone, and what they said with them"
        return Explanation("restarts-used-up", sentence, REMEDIES["restarts-used-up"], ranks[0], when=when)
    found = of_ending(run, first)
    last = [ending for ending in container_exits(run.pods) if ending.rank in ranks and ending.code != Exit.OK][-1:]
    latest = "".join(f"; the last time: {words(e)}" for e in last if words(e) != words(first))
    return dataclasses.replace(found, sentence=f"{sentence}; the first cause: {found.sentence}{latest}")


def words(ending: ContainerExit) -> str:
    """A worker's end in a sentence."""
    how = "ended" if ending.code is None else f"ended with {ending.code}"
    told = ending.message or "it said nothing of it"
    by = f"; the cluster ended it ({ending.disruption}), which is not counted" if ending.disruption else ""
    return f"worker {ending.rank} {how} ({ending.reason}): {told}{by}"


def of_ending(run: Run, ending: ContainerExit) -> Explanation:
    """A worker's end as the cause, in its own words where it left any."""
    probe = probed(run, ending.pod)
    sentence = words(ending) + (f"; the kubelet ended it: {probe}" if probe else "")
    known = REMEDIES.get(ending.reason, "")
    remedy = (known or ending.hint) if ending.code in OF_FOLDERS else (ending.hint or known)
    meaning = describe_code(ending.code)
    return Explanation(ending.reason, sentence, remedy, ending.rank, ending.code, meaning, ending.when, ending.pod)


def probed(run: Run, pod: str) -> str:
    """What the kubelet says where it ended a container that did not answer its probe; else nothing."""
    found = events.last(run.events, "Killing", of=pod)
    return events.message(found) if found and "probe" in events.message(found) else ""


def ends_so_far(run: Run) -> Explanation | None:
    """The end of a worker that is being replaced, while no steps are made."""
    if run.record is not None and run.record.phase not in NOT_STEPPING:
        return None
    ends = [ending for ending in container_exits(run.pods) if ending.code != Exit.OK]
    # The newest, for the run went on after the others.
    own = [ending for ending in ends if ending.reason not in SECONDARY] or ends
    if not own:
        return None
    found = of_ending(run, own[-1])
    counted = len([ending for ending in ends if ending.rank == found.rank and ending.counted])
    most = run.job["spec"].get("backoffLimitPerIndex", 0) + 1
    count = f" (end {counted} of the {most} after which it is given up)" if counted and own[-1].counted else ""
    # What it was told from outside is no fault of its own.
    remedy = REMEDIES[own[-1].reason] if own[-1].reason in SECONDARY else found.remedy
    return dataclasses.replace(found, sentence=f"{found.sentence}; it is replaced{count}", remedy=remedy)


def at_work(run: Run) -> Explanation:
    """That nothing is known to be wrong, and what a run is about."""
    now, record = state(run), run.record
    if (record is None or record.phase == "waiting") and (late := not_there(run)):
        return late
    if record and record.phase == "waiting":
        told = record.message or f"{record.joined or 0} have come"
        return Explanation("joining", f"it waits for all of its {run.workers} workers: {told}")
    if record and record.phase == "restarting":
        sentence = f"worker {record.rank} starts its trainer again ({record.reason}): {record.message}"
        return Explanation(record.reason or "restarting", sentence, rank=record.rank)
    ends = len([ending for ending in container_exits(run.pods) if ending.code != Exit.OK])
    replaced = f"; {ends} of its pods ended before and {'was' if ends == 1 else 'were'} replaced" if ends else ""
    return Explanation("running", f"nothing is wrong: {now}{replaced}")


def not_there(run: Run) -> Explanation | None:
    """A worker for which the others wait, though nothing is known to hold it up."""
    pods = run.newest
    for rank in range(run.workers):
        pod = pods.get(rank)
        if pod is not None and started(pod) and not is_over(pod):
            continue
        if pod is None:
            whose = "whose pod is not made yet"
        elif is_over(pod):
            whose = f"whose pod {pod['metadata']['name']} ended and is about to be replaced"
        else:
            whose = f"whose pod {pod['metadata']['name']} {stage(pod)}"
        return Explanation("starting", f"it waits for worker {rank}, {whose}", rank=rank)
    return None
