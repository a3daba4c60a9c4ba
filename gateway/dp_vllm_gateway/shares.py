"""How much of what all API keys share one of them may take. Pure."""


def may_take(size: int, own: int, taken: int, most: int) -> bool:
    """Whether a key that has `own` of the `taken` may take more: it never has more than what is free.

    One key alone may have half of all, two a third each. After Choudhury, Hahne: Dynamic Queue Length Thresholds for
    Shared-Memory Packet Switches (1998).
    """
    return own + size <= most - taken
