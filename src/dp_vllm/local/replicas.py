"""The replicas of a run, which come and go while it serves: the one owner of which there are.

It must not know how replicas end or what others are told of them.
"""

from collections.abc import Callable

from dp_vllm.local.child import Child
from dp_vllm.local.deployment import Replica
from dp_vllm.local.keep import Keep


class Replicas:
    """Each replica, and the child that keeps its engine running."""

    def __init__(
        self, keep: Callable[[Replica], Keep], added: Callable[[Child], None], changed: Callable[[], None]
    ) -> None:
        """`added` is called with each that comes, `changed` whenever something is new of one of them."""
        self._keep = keep
        self._added = added
        self._changed = changed
        self._members: dict[str, tuple[Replica, Child]] = {}
        self._former: dict[str, int] = {}
        """How often those were started that are gone, by name."""

    @property
    def children(self) -> list[Child]:
        """In the order of their numbers."""
        return [child for _, child in self._members.values()]

    @property
    def described(self) -> list[tuple[Replica, Child]]:
        """The same, with what each of them is."""
        return list(self._members.values())

    @property
    def cards(self) -> tuple[str, ...]:
        """Their GPUs, as the driver calls them."""
        return tuple(card for replica, _ in self._members.values() for card in replica.cards)

    def child(self, name: str) -> Child:
        """Raises KeyError if there is no replica of that name."""
        return self._members[name][1]

    def add(self, replica: Replica) -> None:
        """Have this one too; it is to be started. Its name may be that of one that is gone."""
        assert replica.name not in self._members
        starts = self._former.get(replica.name, 0)
        child = Child(replica.name, self._keep(replica), self._changed, starts=starts)
        members = {**self._members, replica.name: (replica, child)}
        self._members = dict(sorted(members.items(), key=lambda item: (len(item[0]), item[0])))
        self._added(child)
        self._changed()

    def remove(self, name: str) -> None:
        """Forget a replica of which nothing runs any more."""
        child = self._members.pop(name)[1]
        assert not child.observed.running
        self._former[name] = child.starts
        self._changed()
