"""Carries out what people order of a running deployment: replicas end, start again, leave, come.

It must not wait for anything: an order is given to the children, and the supervisor's loop sees it through.
"""

import time
from collections.abc import Callable
from typing import Final

from dp_vllm.errors import UserError
from dp_vllm.local import words
from dp_vllm.local.child import Child
from dp_vllm.local.deployment import Deployment
from dp_vllm.local.narrator import Narrator
from dp_vllm.local.plan import Stop, Then
from dp_vllm.local.replicas import Replicas
from dp_vllm.local.resize import resize
from dp_vllm.local.standing import Run, ScaleOrder, StopOrder

KILL_SECONDS: Final = 3.0
"""How long after the deadline of what is in flight everything is killed."""


class Orders:
    """Of one run. Each raises DpVllmError, and changes nothing, if it cannot be carried out."""

    def __init__(
        self, deployment: Deployment, replicas: Replicas, narrator: Narrator, standing: Callable[[], Run]
    ) -> None:
        self._deployment = deployment
        self._replicas = replicas
        self._narrator = narrator
        self.standing = standing
        """How the run stands now."""

    def stop(self, order: StopOrder) -> None:
        """End these replicas: nothing new is sent to them, what is in flight has its time, then comes SIGTERM."""
        self._demand_running()
        there = [child.name for child in self._replicas.children]
        unknown = next((name for name in order.replicas if name not in there), None)
        if unknown is not None:
            raise UserError(f"there is no replica {unknown}; there are {', '.join(there)}")
        if order.then is Then.LEAVE and not set(there) - set(order.replicas):
            raise UserError("all replicas would leave; end the run instead")
        self._stop(order.replicas, order.drain_seconds, order.then)

    def scale(self, order: ScaleOrder) -> None:
        """Have so many replicas from now on, of one model if there are several."""
        self._demand_running()
        children = self._of(order.model)
        stops = {child.name: child.observed.stop for child in children}
        leaving = {name for name, stop in stops.items() if stop and stop.then is Then.LEAVE}
        change = resize([child.name for child in children], leaving, order.replicas)
        if change.leave:
            self._stop(change.leave, order.drain_seconds, Then.LEAVE)
        if change.add:
            more = self._deployment.more([replica for replica, _ in self._replicas.described], change.add, order.model)
            self._narrator.say(words.coming([replica.name for replica in more]))
            for replica in more:
                self._replicas.add(replica)

    def _of(self, model: str) -> list[Child]:
        """The replicas of one model; all, if there is only one."""
        children = self._replicas.children
        models = sorted({name for child in children for name in child.models})
        if models and model not in models:
            which = f"there is no model {model}" if model else "several models are served"
            raise UserError(f"{which}; say with --model which of them is meant: {', '.join(models)}")
        if model and not models:
            raise UserError("one model is served; leave out --model")
        return [child for child in children if not models or model in child.models]

    def _stop(self, names: tuple[str, ...], drain_seconds: float, then: Then) -> None:
        until = time.monotonic() + drain_seconds
        self._narrator.say(words.ordered(names, then))
        for name in names:
            self._replicas.child(name).order_stop(Stop(until, until + KILL_SECONDS, then))

    def _demand_running(self) -> None:
        if self.standing().stopping:
            raise UserError("the run was told to end, so nothing of it can be changed any more")
