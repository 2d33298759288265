"""The part of kube-state-metrics that the alerts and the dashboard use, as its documentation describes it.

It takes the place of the real one where the Go module proxy does not serve that. Runs in a pod, on port 8080, and reads
the objects from the API server at each scrape. The only cron expression that it knows is `* * * * *`.
"""

from __future__ import annotations

import json
import ssl
import urllib.request
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def objects(path: str) -> list[dict[str, Any]]:
    """All objects of a kind, of all namespaces."""
    request = urllib.request.Request(f"https://kubernetes.default.svc/{path}")
    request.add_header("Authorization", f"Bearer {(ACCOUNT / 'token').read_text(encoding='utf-8')}")
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    with urllib.request.urlopen(request, timeout=10, context=context) as answer:  # noqa: S310 - as above
        found: list[dict[str, Any]] = json.load(answer)["items"]
    return found


def seconds(time: str) -> float:
    """Seconds since 1970, of a time as Kubernetes writes it."""
    return datetime.fromisoformat(time).timestamp()


def sample(name: str, labels: dict[str, str], value: float) -> str:
    """One line of Prometheus' text format."""
    return f"kube_{name}{{{','.join(f'{key}={json.dumps(text)}' for key, text in labels.items())}}} {value:.17g}"


def of_job(job: dict[str, Any]) -> Iterator[str]:
    """A Job's samples. A condition has one for each status that it can have."""
    labels = {"namespace": job["metadata"]["namespace"], "job_name": job["metadata"]["name"]}
    if "activeDeadlineSeconds" in job["spec"]:
        yield sample("job_spec_active_deadline_seconds", labels, job["spec"]["activeDeadlineSeconds"])
    if "startTime" in job["status"]:
        yield sample("job_status_start_time", labels, seconds(job["status"]["startTime"]))
    for condition in job["status"].get("conditions", []):
        if condition["type"] in {"Complete", "Failed"}:
            for status in ("True", "False", "Unknown"):
                more = {**labels, "condition": status.lower()}
                yield sample(f"job_{condition['type'].lower()}", more, condition["status"] == status)
        if condition["type"] == "Suspended":
            yield sample("job_status_suspended", labels, condition["status"] == "True")


def of_cronjob(cronjob: dict[str, Any]) -> Iterator[str]:
    """A CronJob's samples. The next start is the first one after the last start, or after the creation."""
    metadata, spec = cronjob["metadata"], cronjob["spec"]
    labels = {"namespace": metadata["namespace"], "cronjob": metadata["name"]}
    yield sample("cronjob_spec_suspend", labels, spec["suspend"])
    if "startingDeadlineSeconds" in spec:
        yield sample("cronjob_spec_starting_deadline_seconds", labels, spec["startingDeadlineSeconds"])
    if spec["schedule"] != "* * * * *":
        raise ValueError(spec["schedule"])
    if not spec["suspend"]:
        last = seconds(cronjob["status"].get("lastScheduleTime", metadata["creationTimestamp"]))
        yield sample("cronjob_next_schedule_time", labels, last // 60 * 60 + 60)


def metrics() -> str:
    """All samples."""
    lines = [line for job in objects("apis/batch/v1/jobs") for line in of_job(job)]
    lines += [line for cronjob in objects("apis/batch/v1/cronjobs") for line in of_cronjob(cronjob)]
    for service in objects("api/v1/services"):
        labels = {"namespace": service["metadata"]["namespace"], "service": service["metadata"]["name"]}
        lines.append(sample("service_info", labels, 1))
    return "".join(f"{line}\n" for line in lines)


class Handler(BaseHTTPRequestHandler):
    """Answers each request with the samples."""

    def do_GET(self) -> None:
        """Answer."""
        content = metrics().encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


if __name__ == "__main__":
    ThreadingHTTPServer(("", 8080), Handler).serve_forever()
