"""Holds replicas of a model back while one of them goes ahead, as `staging` decides, and says so once.

The one owner of which models still have one ahead. It must not start anything.
"""

from collections.abc import Callable, Sequence

from dp_vllm.local import staging, words
from dp_vllm.local.child import Child
from dp_vllm.local.compiled import Compiled
from dp_vllm.local.deployment import Replica
from dp_vllm.local.staging import Start


class Ahead:
    """Who goes ahead of whom in one run."""

    def __init__(self, staged: Sequence[str], compiled: Compiled, say: Callable[[str], None]) -> None:
        """`staged` are the keys of the models of which one replica goes ahead."""
        self._staged = set(staged)
        self._compiled = compiled
        self._say = say
        self._told: dict[str, str] = {}
        """Who was last said to be ahead, by key."""

    def hold(self, replicas: Sequence[tuple[Replica, Child]], now: float) -> set[str]:
        """The names of those that are not to be started yet; each is told what it waits for."""
        return {name for key in sorted(self._staged) for name in self._hold(key, replicas, now)}

    def _hold(self, key: str, replicas: Sequence[tuple[Replica, Child]], now: float) -> set[str]:
        children = [child for replica, child in replicas if replica.shares == key and child.observed.stop is None]
        waiting = [child for child in children if not child.has_begun]
        decision = staging.decide([_start(child) for child in children], now)
        if decision.ahead:
            waiting = [child for child in waiting if child.name != decision.ahead]
            if waiting and self._told.get(key) != decision.ahead:
                self._told[key] = decision.ahead
                self._say(words.goes_ahead(decision.ahead, len(waiting)))
            for child in waiting:
                child.wait(words.waits_for(decision.ahead))
            return {child.name for child in waiting}
        self._staged.discard(key)
        if decision.compiled:
            self._compiled.note(key)
        if waiting:
            self._say(words.all_start(decision.why))
        for child in waiting:
            child.wait("")
        return set()


def _start(child: Child) -> Start:
    past = child.stage is not None and child.stage.is_past_compiling
    return Start(
        name=child.name,
        news_at=child.news_at if child.has_begun else None,
        shares=past or child.was_ready,
        failed=bool(child.observed.ends),
    )
