"""vLLM's `--config` file: YAML that stands for words of the command line, before those that were typed."""

import json
from pathlib import Path

import yaml

from dp_vllm.errors import BadSettings


def words(path: Path) -> list[str]:
    """The words that the file stands for. Raises BadSettings if it is not a mapping of flags in YAML."""
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise BadSettings(f"--config: {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise BadSettings(f"--config: {path} is not YAML: {' '.join(str(error).split())}") from error
    if content is not None and not isinstance(content, dict):
        raise BadSettings(f"--config: {path} must map flags to values, like `max-model-len: 8192`")
    return [word for key, value in (content or {}).items() for word in _words(str(key), value)]


def _words(key: str, value: object) -> list[str]:
    match value:
        case None:
            return []
        case bool():
            return [f"--{key}" if value else f"--no-{key}"]
        case list():
            return [f"--{key}", *map(str, value)] if value else []
        case dict():
            return [f"--{key}={json.dumps(value)}"]
        case _:
            return [f"--{key}={value}"]
