"""Decides whether a replica that was found to hang is ended: a budget, for the finding may be wrong. Pure."""

from collections.abc import Collection, Sequence
from typing import Final

A_TIME: Final = 3
WINDOW_SECONDS: Final = 3600.0
"""A replica is ended for hanging at most so often within so long."""


def why_not(ended: Sequence[float], others: Collection[str], away: Sequence[str], now: float) -> str:
    """Why a replica that hangs is to be left alone for now; empty if it is to be ended.

    `ended`: when it was ended for that before, on the same clock as `now`. `others` of its model are taken for healthy.
    `away` are those that were ended for that and will be back.
    """
    if sum(now - at < WINDOW_SECONDS for at in ended) >= A_TIME:
        return f"it was ended for that {A_TIME} times within an hour"
    if not others:
        return "no other replica would be left to serve"
    if away:
        return f"replica {away[0]} was ended for that and is not back yet"
    return ""
