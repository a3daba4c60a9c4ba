"""Where the operator is tried: a namespace of a real API server, with nodes that are played, and operators in it."""

from .history import Moment
from .operators import Running
from .scene import Scene
from .setting import Stage

__all__ = ["Moment", "Running", "Scene", "Stage"]
