"""What a command line of `dp-vllm serve` is understood as, for the tests of its flags."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from dp_vllm.errors import BadSettings
from dp_vllm.local.flags import config_file, split
from dp_vllm.local.flags.split import FLAGS, Asked, divide


def asked(*words: str, environ: Mapping[str, str] | None = None) -> Asked:
    items = FLAGS.read(words)
    path = split.config_path(items)
    file = config_file.load(Path(path), FLAGS) if path else None
    return divide(items, file, environ or {})


def refused(*words: str) -> str:
    with pytest.raises(BadSettings) as error:
        asked(*words)
    return str(error.value)
