"""Replicas through every kind of trouble, in any order: what holds at each step, and that it ends well.

The user edits the spec, the scheduler finds no place, pods die, restart and are evicted, and the operator itself dies
between two writes. In the end everything behaves, and the replicas must become what is wanted.
"""

from fleets import DEADLINE_SECONDS, SURGE_SECONDS
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from imagined_pods import ImaginedOperator, ImaginedPods

from dp_vllm.spec import Strategy
from dp_vllm_operator.backoff import Failures
from dp_vllm_operator.plan import Plan, RolloutState
from dp_vllm_operator.replica import Replica

MOST = 5


class Trouble(RuleBasedStateMachine):
    """One model and its pods."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = ImaginedPods()
        self.operator = ImaginedOperator(self.cluster)
        self.newest = 1

    @initialize(replicas=st.integers(0, MOST), strategy=st.sampled_from(Strategy), spare=st.integers(0, 2))
    def begin(self, replicas: int, strategy: Strategy, spare: int) -> None:
        """All serve."""
        self.operator.ask(replicas=replicas, strategy=strategy)
        settle(self.operator)
        self.cluster.capacity = replicas + spare

    # The user

    @rule(replicas=st.integers(0, MOST))
    def scale(self, replicas: int) -> None:
        self.operator.ask(replicas=replicas)

    @rule(broken=st.booleans(), gpus=st.sampled_from((1, 1, 2)))
    def change(self, broken: bool, gpus: int) -> None:
        self.newest += 1
        self.cluster.gpus[self.newest] = gpus
        if broken:
            self.cluster.broken.add(self.newest)
        self.operator.ask(revision=self.newest)

    @rule(back=st.integers(1, 2))
    def undo(self, back: int) -> None:
        self.operator.ask(revision=max(1, self.operator.wanted.revision - back))

    @rule(strategy=st.sampled_from(Strategy))
    def set_strategy(self, strategy: Strategy) -> None:
        self.operator.ask(strategy=strategy)

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.operator.ask(paused=paused)

    # The cluster

    @rule(seconds=st.sampled_from((1, 5, SURGE_SECONDS, 400, DEADLINE_SECONDS)))
    def time_passes(self, seconds: float) -> None:
        self.cluster.now += seconds

    @rule(spare=st.integers(-1, 2))
    def nodes_come_and_go(self, spare: int) -> None:
        self.cluster.capacity = self.operator.wanted.replicas + spare

    @rule(gated=st.booleans(), unbound=st.booleans())
    def hold_pods_back(self, gated: bool, unbound: bool) -> None:
        self.cluster.gated, self.cluster.unbound = gated, unbound

    @rule()
    def mend(self) -> None:
        self.cluster.broken.clear()

    @rule()
    def schedule(self) -> None:
        self.cluster.schedule()

    @rule()
    def let_go(self) -> None:
        self.cluster.let_go()

    @rule(data=st.data())
    def one_gets_ready(self, data: st.DataObject) -> None:
        self.cluster.get_ready(lambda able: data.draw(st.sampled_from(able)) if able else None)

    @precondition(lambda self: any(pod.bound for pod in self.cluster.live()))
    @rule(data=st.data(), how=st.sampled_from(("fails", "restarts", "hangs", "is evicted")))
    def one_breaks(self, data: st.DataObject, how: str) -> None:
        pod = data.draw(st.sampled_from([pod for pod in self.cluster.live() if pod.bound]))
        match how:
            case "fails":
                self.cluster.fail(pod)
            case "is evicted":
                self.cluster.delete(pod.uid)
            case _:
                self.cluster.stop_being_ready(pod, restart=how == "restarts")

    # The operator

    @rule()
    def act(self) -> None:
        """It soon has nothing to do, as long as nothing else happens."""
        for _ in range(4):
            planned = self.operator.plan()
            self.check(planned)
            self.operator.act(planned)
        assert not planned.why

    @rule(data=st.data())
    def act_and_die(self, data: st.DataObject) -> None:
        planned = self.operator.plan()
        self.check(planned)
        self.operator.act(planned, data.draw(st.integers(0, len(planned.delete) + len(planned.create))))
        self.operator.failures = Failures()

    @rule(rounds=st.integers(1, 4), seconds=st.sampled_from((5, 5, SURGE_SECONDS, DEADLINE_SECONDS)))
    def go_on(self, rounds: int, seconds: float) -> None:
        """As things go."""
        for _ in range(rounds):
            self.act()
            self.cluster.let_go()
            self.cluster.schedule()
            self.cluster.get_ready()
            self.cluster.now += seconds

    def check(self, planned: Plan) -> None:
        asked = self.operator.wanted
        ended = [delete.replica.uid for delete in planned.delete]
        assert len(set(ended)) == len(ended) and not any(self.cluster.pods[uid].terminating for uid in ended)
        left = [pod for pod in self.cluster.live() if pod.uid not in ended]
        assert not planned.create or len(left) + len(planned.create) <= asked.replicas + 1
        self._check_serving(asked.replicas, asked.strategy, left)
        assert planned.look_again_seconds is None or planned.look_again_seconds > 0
        assert (planned.rollout is RolloutState.DONE) == self.is_done(left) or asked.paused

    def is_done(self, live: list[Replica]) -> bool:
        asked, now = self.operator.wanted, self.cluster.now
        right = [pod for pod in self.cluster.live() if pod.revision == asked.revision and pod.available(now)]
        return len(right) == len(live) == len(self.cluster.live()) == asked.replicas

    def _check_serving(self, replicas: int, strategy: Strategy, left: list[Replica]) -> None:
        before, after = self.cluster.available(), sum(pod.available(self.cluster.now) for pod in left)
        assert after >= min(before, replicas - (strategy is not Strategy.SURGE))
        assert after or not before or not replicas or (replicas == 1 and strategy is Strategy.DRAIN)

    def teardown(self) -> None:
        """Everything behaves from now on."""
        self.cluster.broken.clear()
        self.cluster.gated = self.cluster.unbound = False
        self.cluster.capacity = 2 * (MOST + 1)
        self.operator.ask(paused=False)
        go_on(self.operator)
        if self.operator.plan().rollout is RolloutState.STALLED:
            left = [pod for pod in self.cluster.live() if pod.revision == self.operator.wanted.revision]
            assert all(pod.available(self.cluster.now) for pod in left), "it was given another chance"
            self.change(broken=False, gpus=1)
        settle(self.operator)


def settle(operator: ImaginedOperator, writes: int | None = None) -> int:
    """All becomes as it is wanted; the fewest that served meanwhile. The operator dies after every so many writes."""
    fewest = go_on(operator, writes)
    cluster, asked = operator.cluster, operator.wanted
    assert [pod.revision for pod in cluster.live()] == [asked.revision] * asked.replicas
    assert _is_over(operator.plan())
    return fewest


def go_on(operator: ImaginedOperator, writes: int | None = None) -> int:
    """Go on until nothing is left to do or to wait for, or for long; the fewest that served meanwhile."""
    cluster, fewest = operator.cluster, operator.cluster.available()
    for _ in range(15 * MOST):
        planned = operator.plan()
        if _is_over(planned):
            break
        operator.act(planned, writes)
        fewest = min(fewest, cluster.available())
        cluster.now += max(6.0, planned.look_again_seconds or 0)
        cluster.let_go()
        cluster.schedule()
        cluster.get_ready()
    return fewest


def _is_over(planned: Plan) -> bool:
    return planned.rollout is RolloutState.DONE and not planned.why and planned.look_again_seconds is None


def test_whatever_happens() -> None:
    run_state_machine_as_test(Trouble, settings=settings(max_examples=75, stateful_step_count=40))


STRATEGIES = st.sampled_from(Strategy)
REPLICAS = st.integers(1, MOST)


def serving(replicas: int, strategy: Strategy, capacity: int) -> ImaginedOperator:
    """All of revision 1 are Ready."""
    operator = ImaginedOperator(ImaginedPods(capacity=capacity))
    operator.ask(replicas=replicas, strategy=strategy)
    settle(operator)
    return operator


@given(replicas=REPLICAS, strategy=STRATEGIES, writes=st.none() | st.integers(1, 2))
def test_with_room_for_one_more_none_is_missing(replicas: int, strategy: Strategy, writes: int | None) -> None:
    operator = serving(replicas, strategy, capacity=replicas + 1)
    operator.ask(revision=2)
    assert settle(operator, writes=writes) == replicas - (strategy is Strategy.DRAIN)


@given(replicas=REPLICAS, strategy=st.sampled_from((Strategy.AUTO, Strategy.DRAIN)), writes=st.none() | st.just(1))
def test_without_room_one_is_missing(replicas: int, strategy: Strategy, writes: int | None) -> None:
    operator = serving(replicas, strategy, capacity=replicas)
    operator.ask(revision=2)
    if replicas == 1 and strategy is Strategy.AUTO:
        go_on(operator)
        assert operator.plan().rollout is RolloutState.SURGE_UNSCHEDULABLE
        operator.ask(strategy=Strategy.DRAIN)
    assert settle(operator, writes=writes) == replicas - 1


@given(replicas=REPLICAS, strategy=STRATEGIES, room=st.integers(0, 1))
def test_a_broken_revision_leaves_as_many_as_wanted(replicas: int, strategy: Strategy, room: int) -> None:
    operator = serving(replicas, strategy, capacity=replicas + room)
    operator.cluster.broken.add(2)
    operator.ask(revision=2)
    go_on(operator)
    assert operator.cluster.available() == replicas
    operator.ask(revision=1)
    assert settle(operator) == replicas


@given(replicas=REPLICAS, strategy=STRATEGIES)
def test_a_broken_first_revision_is_replaced_at_once(replicas: int, strategy: Strategy) -> None:
    operator = ImaginedOperator(ImaginedPods(broken={1}))
    operator.ask(replicas=replicas, strategy=strategy)
    go_on(operator)
    operator.ask(revision=2)
    operator.act(operator.plan())
    assert [pod.revision for pod in operator.cluster.live()] == [2] * replicas
