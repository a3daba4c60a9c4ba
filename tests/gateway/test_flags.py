"""The numbers on a gateway's command line: what cannot be is an error that names the flag."""

import dataclasses

import click
import pytest

from dp_vllm.errors import BadSettings
from dp_vllm_gateway.__main__ import main
from dp_vllm_gateway.config import Limits
from dp_vllm_gateway.discovery.static import address_of

LIMITS = ["--" + limit.name.replace("_", "-") for limit in dataclasses.fields(Limits)]
OTHERS = [
    "--gateway-workers",
    "--listen-fd",
    "--shutdown-timeout",
    "--port",
    "--metrics-port",
    "--prefix-weight",
    "--max-address-connections",
]


@pytest.mark.parametrize("flag", LIMITS + OTHERS)
def test_what_is_beyond_all_bounds_is_refused(flag: str) -> None:
    for odd in ("-1", "inf", "-inf", "nan", "1e30", "1e400", "1" + "0" * 20, "9" * 5000, "", "true"):
        with pytest.raises(click.BadParameter) as refused:
            main.make_context("gateway", ["--replica", "h:1", f"{flag}={odd}"])
        assert flag in refused.value.format_message()


def test_what_is_no_address_is_refused() -> None:
    for odd in ("h:0", "h:65536", "h:" + "9" * 5000, "h:\u00b2", "h:\u0663", ":80", "h", "unix:x", "a b:1"):
        with pytest.raises(BadSettings, match="--replica"):
            address_of(odd)
