"""Which CPUs are next to some GPUs: what runs elsewhere reaches them, and its own memory, through a slow link."""

from collections.abc import Collection, Sequence, Set

from dp_vllm.topology.matrix import Matrix


def near(matrix: Matrix, indexes: Sequence[int], allowed: Set[int]) -> str:
    """The CPUs next to these GPUs, out of those that may be used: `0-31,64-95`.

    Empty if that is not known, if the GPUs are at different sockets, and if it makes no difference.
    """
    lists = {gpu.cpus for gpu in matrix.gpus if gpu.index in indexes}
    cpus = _numbers(next(iter(lists))) & allowed if len(lists) == 1 else set()
    return listed(cpus) if cpus < allowed else ""


def listed(numbers: Collection[int]) -> str:
    """A set of numbers as the kernel and the driver write it: `0-3,8`."""
    starts = sorted(number for number in numbers if number - 1 not in numbers)
    ends = sorted(number for number in numbers if number + 1 not in numbers)
    pairs = zip(starts, ends, strict=True)
    return ",".join(str(start) if start == end else f"{start}-{end}" for start, end in pairs)


def _numbers(text: str) -> set[int]:
    """The numbers of such a list; none for an empty one."""
    ranges = (part.partition("-") for part in text.split(",") if part)
    return {number for first, _, last in ranges for number in range(int(first), int(last or first) + 1)}
