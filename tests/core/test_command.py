"""What an engine is told when it is started."""

import sys
from pathlib import Path

import pytest

from dp_vllm.engine.command import SIM, Command, Engine, Order, Sizes, replica_command, vllm
from dp_vllm.engine.flags import vllm_flags
from dp_vllm.engine.version import Version

ENGINE = vllm(Path("/venv/bin/vllm"), Version("0.32.0"), {})
ADDED = ("--enable-server-load-tracking", "--disable-access-log-for-endpoints", "/health,/metrics,/load")


def order(*words: str, flags: tuple[str, ...] = (), engine: Engine = ENGINE, **more: object) -> Order:
    return Order(engine, "org/model", words, frozenset(flags), **more)  # type: ignore[arg-type]


def test_vllm_is_started_on_a_unix_socket_with_the_users_words_as_typed() -> None:
    command = replica_command(order("--max_model_len=8K", '--x={"a": 1}'), "unix:/run/0.sock", (), {})

    assert command.argv == (
        *("/venv/bin/vllm", "serve", "org/model", "--max_model_len=8K", '--x={"a": 1}'),
        *ADDED,
        *("--uds", "/run/0.sock"),
    )


def test_the_simulated_engine_gets_the_same_words_without_serve() -> None:
    command = replica_command(order(engine=SIM), "127.0.0.1:9001", (), {})

    assert command.argv == (
        *(sys.executable, "-I", "-m", "dp_vllm.sim", "org/model"),
        *ADDED,
        *("--host", "127.0.0.1", "--port", "9001"),
    )


def test_sizes_are_told_in_their_long_form_if_they_are_more_than_one() -> None:
    told = replica_command(order(sizes=Sizes(tensor=2, prefill_context=3)), "unix:/s", (), {}).argv

    assert "--pipeline-parallel-size" not in told
    assert told[told.index("--tensor-parallel-size") + 1] == "2"
    assert told[told.index("--prefill-context-parallel-size") + 1] == "3"


def test_the_config_file_stands_behind_the_model_as_two_words() -> None:
    told = replica_command(order("--seed", "1", config=Path("/run/engine.yaml")), "unix:/s", (), {}).argv

    assert told[2:7] == ("org/model", "--config", "/run/engine.yaml", "--seed", "1")


def test_every_flag_that_an_engine_gets_from_us_is_one_of_vllms() -> None:
    told = replica_command(order(sizes=Sizes(2, 2, 2), config=Path("/c")), "unix:/s", (), {}).argv

    known = {flag.name for flag in vllm_flags()}
    assert {word for word in told if word.startswith("--")} <= known


def test_what_the_user_set_is_not_set_again() -> None:
    set_by_user = order("--no-enable-server-load-tracking", flags=("--enable-server-load-tracking",))

    told = replica_command(set_by_user, "unix:/s", (), {}).argv

    assert "--enable-server-load-tracking" not in told
    assert "--disable-access-log-for-endpoints" in told


def test_the_gpus_of_a_replica_are_all_that_it_sees() -> None:
    variables = replica_command(order(), "unix:/s", ("2", "3"), {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}).variables

    assert variables == {
        "CUDA_VISIBLE_DEVICES": "2,3",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "75",
    }


def test_the_users_own_order_of_gpus_is_kept() -> None:
    environ = {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}

    assert replica_command(order(), "unix:/s", ("0",), environ).variables["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"


def test_an_engine_without_gpus_is_told_of_none() -> None:
    assert replica_command(order(), "unix:/s", (), {}).variables == {"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "75"}


@pytest.mark.parametrize(
    "name",
    [
        "VLLM_API_KEY",
        "DP_VLLM_API_KEY",
        "DP_VLLM_SERVICE_HOST",
        "VLLM_PORT",
        "VLLM_PORT_8000_TCP",
        "VLLM_SERVICE_HOST",
        "VLLM_DP_SIZE",
        "VLLM_DP_MASTER_PORT",
    ],
)
def test_variables_that_are_not_meant_for_an_engine_are_kept_from_it(name: str) -> None:
    environ = {name: "x", "VLLM_LOGGING_LEVEL": "DEBUG", "HF_HOME": "/models"}

    command = replica_command(order(), "unix:/s", (), environ)

    assert command.unset == (name,)
    assert command.environment(environ) == {
        "VLLM_LOGGING_LEVEL": "DEBUG",
        "HF_HOME": "/models",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "75",
    }


def test_a_commands_own_variables_win() -> None:
    assert Command(("x",), {"A": "2"}, ("B",)).environment({"A": "1", "B": "1", "C": "1"}) == {"A": "2", "C": "1"}


@pytest.mark.parametrize(
    ("version", "environ", "uses_gpus", "name"),
    [
        (Version("0.32.0"), {}, True, "vllm 0.32.0"),
        (Version("0.32.0+cpu", for_cpu=True), {}, False, "vllm 0.32.0+cpu"),
        (Version("0.32.0"), {"VLLM_TARGET_DEVICE": "CPU"}, False, "vllm 0.32.0"),
        (None, {}, True, "vllm at /venv/bin/vllm"),
    ],
)
def test_a_vllm_for_cpus_uses_no_gpus(
    version: Version | None, environ: dict[str, str], uses_gpus: bool, name: str
) -> None:
    engine = vllm(Path("/venv/bin/vllm"), version, environ)

    assert (engine.uses_gpus, engine.name) == (uses_gpus, name)
