"""Watches the cluster with kopf, and puts the key of what changed into the queue. Nothing is decided here.

kopf brings the watch streams, their reconnects and the login. An event's content is not looked at: events may be late,
doubled or missing, and the reconciler reads everything anew.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import kopf

from dp_vllm import names
from dp_vllm.kubernetes_api import KubernetesApi
from dp_vllm_operator.cluster import CHILDREN, OURS, POD, REVISION, Kind
from dp_vllm_operator.settings import Settings

Heard = Callable[[str, str, Mapping[str, Any], str], None]
"""Told of namespace, model, the object's metadata, and its kind in plural if it is one of `CHILDREN`, else empty."""

WATCH_SECONDS: Final = 300
"""How long the API server keeps a watch; then the next one begins where it ended."""

API_BACKOFFS: Final = (1, 1, 2, 3, *[5] * 58)
"""Between tries, in seconds: five minutes without an answer are waited out, and then little time is lost."""


def registry(api: KubernetesApi, heard: Heard) -> kopf.OperatorRegistry:
    """What kopf is to watch."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        given = await api.credentials()
        scheme, token = (given.authorization or " ").split(" ", 1)
        return kopf.ConnectionInfo(
            server=given.server,
            ca_path=given.ca_path,
            insecure=not given.verify,
            scheme=scheme or None,
            token=token or None,
            certificate_path=given.certificate_path,
            private_key_path=given.key_path,
        )

    @kopf.on.event(names.API_GROUP, names.API_VERSION, names.PLURAL, registry=handlers)
    async def model_changed(namespace: str | None, name: str | None, meta: kopf.Meta, **_: Any) -> None:
        heard(namespace or "", name or "", meta, "")

    for kind in (POD, REVISION, *CHILDREN):
        _watch(handlers, kind, heard)
    return handlers


def _watch(handlers: kopf.OperatorRegistry, kind: Kind, heard: Heard) -> None:
    group, _, version = kind.api_version.rpartition("/")
    plural = kind.plural if kind in CHILDREN else ""

    async def child_changed(namespace: str | None, labels: kopf.Labels, meta: kopf.Meta, **_: Any) -> None:
        if model := labels.get(names.MODEL_LABEL) or _owner(meta):
            heard(namespace or "", model, meta, plural)

    kopf.on.event(group, version, kind.plural, registry=handlers, id=f"{kind.plural}-changed")(child_changed)


def _owner(meta: kopf.Meta) -> str:
    """The model that owns an object: somebody may have taken the label away."""
    owners = [owner for owner in meta.get("ownerReferences", ()) if owner.get("controller")]
    return next((owner["name"] for owner in owners if owner["kind"] == names.KIND), "")


class _NothingKept(kopf.DiffBaseStorage):
    """Every look reads what it needs: copies of objects, to compare them with the next event, are not made."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        return None

    def store(self, **_: Any) -> None:
        """Nothing."""


def settings(told: Settings) -> kopf.OperatorSettings:
    """How kopf watches."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    chosen.persistence.diffbase_storage = _NothingKept()
    chosen.peering.standalone = True
    chosen.scanning.disabled = bool(told.namespaces)
    chosen.networking.connect_timeout = 10
    chosen.networking.request_timeout = 60
    chosen.networking.error_backoffs = API_BACKOFFS
    chosen.watching.server_timeout = WATCH_SECONDS
    chosen.watching.client_timeout = WATCH_SECONDS + 30
    chosen.watching.reconnect_backoff = 1.0
    for kind in (POD, REVISION, *CHILDREN):
        chosen.watching.label_selectors[kind.api_version, kind.plural] = OURS
    return chosen


async def watch(told: Settings, api: KubernetesApi, heard: Heard) -> None:
    """Watch until told to end (SIGTERM, SIGINT), or until a watch fails for good."""
    logging.getLogger("kopf").setLevel(logging.WARNING)
    await kopf.operator(
        registry=registry(api, heard),
        settings=settings(told),
        standalone=True,
        clusterwide=not told.namespaces,
        namespaces=told.namespaces,
    )
