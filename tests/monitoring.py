"""The monitoring manifests and the configuration in docs/monitoring.md, read for their tests."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from k8s.render.kustomize import MANIFESTS, kustomize

if TYPE_CHECKING:
    from k8s.api.objects import Object

FOLDER = MANIFESTS / "monitoring"
PAGE = (Path(__file__).parents[1] / "docs" / "monitoring.md").read_text(encoding="utf-8")


def objects() -> dict[str, Object]:
    """The objects of the folder, by kind."""
    return {found["kind"]: found for found in kustomize(FOLDER)}


def rules() -> list[Object]:
    """The alerting rules."""
    [group] = objects()["PrometheusRule"]["spec"]["groups"]
    found: list[Object] = group["rules"]
    return found


def dashboard() -> Object:
    """The dashboard, as the ConfigMap holds it."""
    found: Object = json.loads(objects()["ConfigMap"]["data"]["dashboard.json"])
    return found


def queries(namespace: str, run: str) -> dict[str, str]:
    """The dashboard's queries for one run, by the title of the panel and, if it has several targets, their ids."""
    found = {}
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            title = f"{panel['title']} {target['refId']}" if len(panel["targets"]) > 1 else panel["title"]
            found[title] = target["expr"].replace("$namespace", namespace).replace("$run", run)
    return found


def scrape_config() -> dict[str, Any]:
    """The page's scrape configuration for a Prometheus without the operator."""
    block = re.search(r"```yaml\n(scrape_configs:\n.*?)```", PAGE, re.DOTALL)
    assert block, "the page has no scrape_configs"
    [found] = yaml.safe_load(block[1])["scrape_configs"]
    return dict(found)


def promtool(*arguments: str | Path) -> str:
    """The output of promtool, which must succeed."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
