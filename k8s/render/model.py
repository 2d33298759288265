"""The ConfigMap with a model of the user's, and its mount over the image's model.py. Pure."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from job.must_match import SHORT
from k8s.state.names import APP, MODEL_FILE, MODEL_PREFIX, MODEL_VOLUME, PART_OF_LABEL, trainer_of

if TYPE_CHECKING:
    from k8s.api.objects import Object

IN_IMAGE = f"/app/job/{MODEL_FILE}"
LABELS = {PART_OF_LABEL: APP, "app.kubernetes.io/component": "model", "app.kubernetes.io/managed-by": APP}


def config_map(source: str) -> Object:
    """The ConfigMap of a model. The same source has the same name, and what is in it cannot be changed."""
    digest = hashlib.sha256(source.encode()).hexdigest()
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{MODEL_PREFIX}{digest[:SHORT]}", "labels": LABELS},
        "immutable": True,
        "data": {MODEL_FILE: source},
    }


def mount_model(template: Object, name: str) -> None:
    """Mount the ConfigMap of that name over the image's model.py, in place of a model that the overlay mounts."""
    spec, trainer = template["spec"], trainer_of(template)
    replaced = {mount["name"] for mount in trainer["volumeMounts"] if mount["mountPath"] == IN_IMAGE} | {MODEL_VOLUME}
    spec["volumes"] = [volume for volume in spec["volumes"] if volume["name"] not in replaced]
    spec["volumes"].append({"name": MODEL_VOLUME, "configMap": {"name": name}})
    trainer["volumeMounts"] = [mount for mount in trainer["volumeMounts"] if mount["name"] not in replaced]
    trainer["volumeMounts"].append(
        {"name": MODEL_VOLUME, "mountPath": IN_IMAGE, "subPath": MODEL_FILE, "readOnly": True}
    )
