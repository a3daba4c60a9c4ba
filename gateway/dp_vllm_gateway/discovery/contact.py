"""Whether the one who says which endpoints there are is still heard. Discovery writes it, others tell of it."""

from dataclasses import dataclass


@dataclass(slots=True)
class Contact:
    """When the source of endpoints was last heard."""

    heard_at: float | None = None
    """On the event loop's clock; None before the first time."""
    problem: str = ""
    """Why it is not heard now: a sentence."""

    def heard(self, now: float) -> None:
        """It said something."""
        self.heard_at = now

    def age_seconds(self, now: float) -> float | None:
        """How old the last word is."""
        return None if self.heard_at is None else now - self.heard_at
