"""What the engine's own flags say where we have to know it. Pure."""

from collections.abc import Sequence

from dp_vllm.engine.command import known_flags
from dp_vllm.local.flags.config_file import ConfigFile


def values(words: Sequence[str], config: ConfigFile | None = None) -> dict[str, tuple[str, ...]]:
    """The values of the engine's flags by their long names; what was typed wins over the file."""
    in_file = [entry.item for entry in config.entries if not entry.says_nothing] if config else []
    items = (*in_file, *known_flags().read(words))
    return {item.flag.name: item.values for item in items if item.flag is not None and not item.off}
