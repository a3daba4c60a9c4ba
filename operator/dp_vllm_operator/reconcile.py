"""One look at one model: observe, plan, apply, say how it stands. A straight line from what is there to what is wanted.

Nothing that is remembered between two looks decides anything: it only saves reads (logs, children that nobody touched)
and puts the replacement of dead replicas off. With an empty memory the same is done.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dp_vllm import names
from dp_vllm.kubernetes_api import Object
from dp_vllm.spec import BadSpec
from dp_vllm_operator import replicas as fleet
from dp_vllm_operator import status, target
from dp_vllm_operator.backoff import Failures
from dp_vllm_operator.children import Children, Kept
from dp_vllm_operator.cluster import CHILDREN, Cluster
from dp_vllm_operator.events import Recorder
from dp_vllm_operator.logs import EVERY_SECONDS, Logs
from dp_vllm_operator.look import Look, component
from dp_vllm_operator.metrics import Models
from dp_vllm_operator.model import Model
from dp_vllm_operator.news import news
from dp_vllm_operator.observe import downloaded, observe
from dp_vllm_operator.observed import DownloadState, Observed
from dp_vllm_operator.queue import Key
from dp_vllm_operator.render.children import children, owned_by
from dp_vllm_operator.replica import Replica, seconds
from dp_vllm_operator.revision import Revision, last_proven
from dp_vllm_operator.settings import Settings
from dp_vllm_operator.target import Target

LOGS_AT_ONCE: Final = 8

REFUSED_SECONDS: Final = 15.0
"""When to try again what was refused: a quota may have been raised, a Secret made."""

TURN_SECONDS: Final = 5.0
"""When to ask again whether it is this model's gateway's turn."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Memory:
    """What is remembered of one model between two looks."""

    uid: str
    new: bool
    """Made since this operator began, and none of its children are yet."""
    logs: Logs
    failures: Failures = field(default_factory=Failures)
    kept: Kept | None = None
    """None if all of its children are to be looked after."""
    heard: set[tuple[str, str]] = field(default_factory=set)
    """What watches told of since then: kinds of children, in plural, and the versions of those that changed."""
    kept_for: int = 0
    """The generation that they were looked after for."""
    written_at: float = 0.0

    def know_nothing(self) -> None:
        """Look after all of its children the next time."""
        self.kept, self.heard = None, set()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Present:
    """What there is of a model beside its children."""

    replicas: tuple[Replica, ...]
    orphans: tuple[Replica, ...]
    """Replicas that only bear its label."""
    others: tuple[Object, ...]
    """Pods of its gateway and its download."""
    revisions: list[Revision]
    used: set[int]
    """Numbers that a new revision cannot have."""


class Reconciler:
    """Brings models nearer to what is wanted. It owns what is remembered of each."""

    def __init__(
        self,
        cluster: Cluster,
        settings: Settings,
        recorder: Recorder,
        models: Models,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cluster = cluster
        self._settings = settings
        self._recorder = recorder
        self._models = models
        self._clock = clock
        self._began = clock()
        self._children = Children(cluster)
        self._memory: dict[Key, _Memory] = {}
        self._log_turn = asyncio.Semaphore(LOGS_AT_ONCE)

    def child_changed(self, key: Key, plural: str, version: str) -> None:
        """A watch told of a child: look after its kind the next time, unless this is what we wrote ourselves."""
        if memory := self._memory.get(key):
            memory.heard.add((plural, version))

    def look_at_all(self, key: Key) -> None:
        """Look after all of the model's children the next time: nobody has for long."""
        if memory := self._memory.get(key):
            memory.know_nothing()

    async def reconcile(self, key: Key) -> float | None:
        """Bring the model nearer to what is wanted; the seconds after which to look again if nothing happens before."""
        body = await self._cluster.model(*key)
        if body is None or "deletionTimestamp" in body["metadata"]:
            self.forget(key)
            return None
        memory = self._remember(key, body["metadata"])
        try:
            model = Model.of(body)
        except BadSpec as problem:
            memory.know_nothing()
            return await self._say(key, body, status.invalid(body, str(problem), self._clock()), memory)
        if model.annotations.get(names.RECONCILE_ANNOTATION) == "disabled":
            memory.know_nothing()
            look = await self._look_only(model)
        else:
            look = await self._look(model, memory)
        observed = await observe(self._cluster, look, memory.logs)
        written = status.status(model, observed, look.now)
        self._tell(model, written)
        later = await self._say(key, body, written, memory)
        return min((at for at in (later, *_times(look, observed)) if at is not None), default=None)

    def _remember(self, key: Key, metadata: Mapping[str, Any]) -> _Memory:
        """What is known of this very model: one of the same name may have been there before."""
        memory, uid = self._memory.get(key), metadata["uid"]
        if memory is None or memory.uid != uid:
            new = seconds(metadata["creationTimestamp"]) > self._began
            memory = _Memory(uid, new, Logs(self._cluster, key.namespace, self._log_turn, self._clock))
            self._memory[key] = memory
        return memory

    def forget(self, key: Key) -> None:
        """The model is gone, or another operator's."""
        self._memory.pop(key, None)
        self._children.forget(key)
        self._models.forget(key)

    # observe, plan, apply

    async def _look(self, model: Model, memory: _Memory) -> Look:
        kept = await self._keep(model, memory)
        now = self._clock()
        present = await self._present(model)
        mine, stored = present.replicas, present.revisions
        found = await target.find(self._cluster, model, stored, present.used, self._settings, gate=downloaded(kept))
        decided, refused = None, None
        if found.revision is not None:
            decided = await fleet.decide(model, found.revision, stored, mine, present.orphans, memory.failures, now)
            refused = await fleet.carry_out(self._cluster, model, found.revision, stored, decided, now)
            if decided.why:
                log.info("%s/%s: %s", model.namespace, model.name, decided.why)
                self._recorder.normal(model, "Replicas", decided.why)
            await fleet.record_proof(self._cluster, model, found.revision, stored, decided, now)
            await fleet.remove_surplus(self._cluster, model, found.revision, stored, mine)
        return Look(
            model=model,
            now=now,
            kept=kept,
            target=found,
            replicas=mine,
            orphans=present.orphans,
            others=present.others,
            ready_revision=last_proven(stored),
            plan=decided,
            refused=refused,
        )

    async def _look_only(self, model: Model) -> Look:
        """For a model that the operator is to leave alone."""
        now = self._clock()
        present = await self._present(model)
        return Look(
            model=model,
            now=now,
            kept=await self._children.see(model),
            target=Target(revision=target.before(model, present.revisions)),
            replicas=present.replicas,
            orphans=present.orphans,
            others=present.others,
            ready_revision=last_proven(present.revisions),
        )

    async def _keep(self, model: Model, memory: _Memory) -> Kept:
        """Look after the children, or those that something has happened to since that was done."""
        before = memory.kept
        if before and (memory.kept_for != model.generation or before.waits or before.refused or before.conflicts):
            before = None
        changed = {plural for plural, version in memory.heard if not (before and before.holds(version))}
        if before and not changed:
            memory.heard = set()
            return before
        untouched = [kind.plural for kind in CHILDREN if kind.plural not in changed]
        known: dict[str, dict[str, Object]] = {}
        if before:
            known = {plural: before.of(plural) for plural in untouched}
        elif memory.new and not model.status:  # what there is of it nevertheless is found when it is to be made
            known = {plural: {} for plural in untouched}
        memory.kept, memory.kept_for, memory.heard, memory.new = None, model.generation, set(), False  # it may fail
        memory.kept = await self._children.keep(model, children(model, self._settings), known)
        return memory.kept

    async def _present(self, model: Model) -> _Present:
        pods, stored = await asyncio.gather(
            self._cluster.pods(model.namespace, model.name),
            self._cluster.revisions(model.namespace, model.name),
        )
        replicas = [body for body in pods if component(body) == names.REPLICA]
        mine = tuple(Replica.of(body) for body in replicas if owned_by(body, model))
        orphans = tuple(Replica.of(body) for body in replicas if not owned_by(body, model))
        others = tuple(body for body in pods if component(body) != names.REPLICA)
        used = {*(replica.revision for replica in (*mine, *orphans)), *(body["revision"] for body in stored)}
        revisions = [Revision.of(body) for body in stored if owned_by(body, model)]
        return _Present(replicas=mine, orphans=orphans, others=others, revisions=revisions, used=used)

    # say how it stands

    async def _say(self, key: Key, body: Object, written: dict[str, Any], memory: _Memory) -> float | None:
        """Write the status if it has changed; the seconds after which to write it, if not now."""
        now = self._clock()
        self._models.show(key, body.get("spec", {}).get("replicas", 1), written)
        later = status.write_in_seconds(body.get("status", {}), written, now, memory.written_at)
        if later == 0.0:
            await self._cluster.write_status(*key, body["metadata"]["uid"], written)
            memory.written_at = now
            return None
        return later

    def _tell(self, model: Model, written: Mapping[str, Any]) -> None:
        """Events of what the new status says and the old one did not."""
        for one in news(model.status, written):
            tell = self._recorder.warning if one.warns else self._recorder.normal
            tell(model, one.reason, one.message)


def _times(look: Look, observed: Observed) -> Iterator[float | None]:
    """When to look again though nothing happens."""
    yield look.plan.look_again_seconds if look.plan else None
    yield REFUSED_SECONDS if look.refused or look.kept.refused or look.kept.conflicts or look.target.refused else None
    yield TURN_SECONDS if look.kept.waits else None
    starting = any(replica.lives and not replica.ready and replica.bound for replica in look.replicas)
    downloading = observed.download.state in (DownloadState.RUNNING, DownloadState.FAILED)
    yield EVERY_SECONDS if starting or downloading else None
