"""Groups that somebody wrote down instead of having them chosen: `0,1;2,3`."""

from collections import Counter
from collections.abc import Sequence

Groups = tuple[tuple[str, ...], ...]
"""The GPUs of each copy, by index or UUID, in the order of the engine's ranks."""


def read(text: str) -> Groups:
    """The groups in a text. Raises ValueError with what is allowed."""
    groups = tuple(tuple(one.strip() for one in group.split(",")) for group in text.split(";"))
    if not all(map(all, groups)):
        raise ValueError("allowed are GPUs separated by commas, in groups separated by semicolons, like '0,1;2,3'")
    sizes = sorted({len(group) for group in groups})
    if len(sizes) > 1:
        raise ValueError(f"all groups need the same number of GPUs, not {' and '.join(map(str, sizes))}")
    return groups


def objection(groups: Groups, copies: int, size: int, among: Sequence[str], where: str) -> str | None:
    """Why these groups cannot be taken for so many copies of so many GPUs; None if they can.

    `among` are the GPUs that there are, `where` says who has them.
    """
    missing = [gpu for group in groups for gpu in group if gpu not in among]
    if missing:
        return f"there is no GPU {missing[0]}: {where} has {','.join(among) or 'none'}"
    twice = [gpu for gpu, times in Counter(gpu for group in groups for gpu in group).items() if times > 1]
    if twice:
        return f"GPU {twice[0]} is named twice, each can be used once"
    if len(groups[0]) != size:
        return f"a group has {len(groups[0])} {'GPU' if len(groups[0]) == 1 else 'GPUs'}, a replica needs {size}"
    if len(groups) != copies:
        hint = "; in a shell, put them in quotes: '0,1;2,3'" if len(groups) == 1 else ""
        return f"{len(groups)} {'group' if len(groups) == 1 else 'groups'} for -dp {copies}{hint}"
    return None
