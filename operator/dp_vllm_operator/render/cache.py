"""The claim for a model's files, and the Job that puts them there before the first replica starts. Pure."""

import hashlib
import json
from typing import Any, Final

from msgspec import UNSET

from dp_vllm import names
from dp_vllm.engine.hub import Fetched
from dp_vllm.spec import Claim
from dp_vllm.spec.references import unexpanded
from dp_vllm_operator.model import Model
from dp_vllm_operator.render import volumes
from dp_vllm_operator.render.pod import engine_of, hub_token_names
from dp_vllm_operator.render.template import Template

Json = dict[str, Any]

CACHE: Final = "cache"
"""The claim's component label."""

_WHERE: Final = (
    "affinity",
    "dnsConfig",
    "dnsPolicy",
    "hostAliases",
    "imagePullSecrets",
    "nodeSelector",
    "priorityClassName",
    "schedulerName",
    "securityContext",
    "serviceAccountName",
    "tolerations",
    "automountServiceAccountToken",
    "enableServiceLinks",
)
"""What the download's pod has from a replica's: where it runs, as whom, and how it reaches the hub and the image."""
_HOW: Final = ("image", "imagePullPolicy", "env", "envFrom", "volumeMounts", "securityContext",
               "terminationMessagePolicy")  # fmt: skip
"""What its container has from the engine's."""
_SMALL: Final = {"requests": {"cpu": "100m", "memory": "512Mi"}}
_FOR_EVER: Final = 2**31 - 1
"""Attempts: a token that is missing, or a disk that is full, may be mended at any time."""


def claim(wanted: Claim) -> Json:
    spec: Json = {"accessModes": [wanted.access_mode], "resources": {"requests": {"storage": wanted.size}}}
    if wanted.storage_class_name is not UNSET:
        spec["storageClassName"] = wanted.storage_class_name
    return spec


def download_name(model: Model, wanted: Fetched) -> str:
    """Another name for another download."""
    what = json.dumps([_words(wanted), volumes.claim_name(model.name, model.spec.cache)])
    return f"{model.name}-download-{hashlib.sha256(what.encode()).hexdigest()[:8]}"


def download_job(model: Model, wanted: Fetched, template: Template) -> Json:
    """Its spec. The pod is a replica's, with another program and without accelerators."""
    of_replica, engine = template["spec"], engine_of(template)
    hidden = hub_token_names(model.spec.hf_token_secret_ref)
    words = [unexpanded(word, hidden) for word in _words(wanted)]
    container: Json = {str(key): engine[key] for key in _HOW if key in engine} | {
        "name": names.DOWNLOAD,
        "command": ["python3", "-I", f"{volumes.PROGRAMS}/download.py", *words],
        "env": [variable for variable in engine["env"] if variable["name"] != "HF_HUB_OFFLINE"],
        "resources": _SMALL,
    }
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    pod: Json = {key: of_replica[key] for key in _WHERE if key in of_replica} | {
        "restartPolicy": "OnFailure",
        "containers": [container],
        "volumes": [volume for volume in of_replica["volumes"] if volume["name"] in mounted],
    }
    metadata = template["metadata"]
    labels = metadata.get("labels", {}) | model.labels(names.DOWNLOAD)
    annotations = {key: value for key, value in metadata.get("annotations", {}).items()
                   if key != names.RESTART_ANNOTATION}  # fmt: skip
    return {
        "backoffLimit": _FOR_EVER,
        "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod},
    }


def _words(wanted: Fetched) -> list[str]:
    model, *others = wanted.repositories
    revision = ["--revision", model.revision] if model.revision else []
    also = [f"{one.name}@{one.revision}" if one.revision else one.name for one in others]
    return [model.name, *revision, *(word for name in also for word in ("--also", name))]
