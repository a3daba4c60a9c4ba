"""What two engines on one machine cannot share is each one's own, as vLLM's data-parallel ranks have it."""

import json

import pytest

from dp_vllm.engine import offsets

EVENTS = "--kv-events-config"
TRANSFER = "--kv-transfer-config"
NIXL = '{"kv_connector": "NixlConnector", "kv_role": "kv_both"}'


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            [EVENTS, '{"endpoint": "tcp://*:5557", "replay_endpoint": "tcp://*:6557", "topic": "kv"}'],
            [EVENTS, '{"endpoint": "tcp://*:5559", "replay_endpoint": "tcp://*:6559", "topic": "kv"}'],
        ),
        ([EVENTS + '={"endpoint": "tcp://[::]:5557"}'], [EVENTS, '{"endpoint": "tcp://[::]:5559"}']),
        (
            [EVENTS, '{"enable_kv_cache_events": true}'],
            [EVENTS, '{"endpoint": "tcp://*:5559", "enable_kv_cache_events": true}'],
        ),
        (
            [EVENTS + ".endpoint", "tcp://*:5557", EVENTS + ".topic", "x"],
            [EVENTS + ".endpoint", "tcp://*:5559", EVENTS + ".topic", "x"],
        ),
        (
            [EVENTS + ".enable_kv_cache_events", "true"],
            [EVENTS + ".enable_kv_cache_events", "true", EVENTS + ".endpoint", "tcp://*:5559"],
        ),
        ([EVENTS, '{"endpoint": "ipc:///tmp/kv"}'], [EVENTS, '{"endpoint": "ipc:///tmp/kv_dp2"}']),
        (
            [TRANSFER, '{"kv_port": 14579, "engine_id": "a", "kv_connector_extra_config": {"proxy_port": 1}}'],
            [TRANSFER, '{"kv_port": 14587, "engine_id": "a_dp2", "kv_connector_extra_config": {"proxy_port": 1}}'],
        ),
        (
            [TRANSFER, '{"kv_port": "1", "tiers": [{"type": "p2p", "port": 9}], "handshake_port": 20}'],
            [TRANSFER, '{"kv_port": "9", "tiers": [{"type": "p2p", "port": 11}], "handshake_port": 28}'],
        ),
    ],
)
def test_fixed_ports_are_offset_by_the_rank(words: list[str], expected: list[str]) -> None:
    assert offsets.own(words, {}, {}, 0, 4).words == tuple(words), "the first has what was typed"
    assert offsets.own(words, {}, {}, 2, 4).words == tuple(expected)


@pytest.mark.parametrize(
    "words",
    [
        [EVENTS, '{"endpoint": "tcp://router:5557"}'],  # it connects
        [EVENTS, '{"endpoint": "tcp://*:0"}'],
        [EVENTS, '{"enable_kv_cache_events": false}'],
        [EVENTS, "{no JSON"],
        [TRANSFER, '{"kv_port": "none"}'],
        ["--seed", "1", "--max-model-len", "32K", "--override-generation-config", '{"endpoint": "tcp://*:1"}'],
    ],
)
def test_what_does_not_collide_stays_as_it_was_typed(words: list[str]) -> None:
    assert offsets.own(words, {}, {}, 2, 4).words == tuple(words)


@pytest.mark.parametrize(
    ("words", "environ", "expected"),
    [
        ([], {"VLLM_NIXL_SIDE_CHANNEL_PORT": "5600"}, {"VLLM_NIXL_SIDE_CHANNEL_PORT": "5602"}),
        ([TRANSFER, NIXL], {}, {"VLLM_NIXL_SIDE_CHANNEL_PORT": "5602"}),
        ([TRANSFER, NIXL], {"VLLM_NIXL_SIDE_CHANNEL_PORT": "7000"}, {"VLLM_NIXL_SIDE_CHANNEL_PORT": "7002"}),
        ([TRANSFER + ".kv_connector", "NixlConnector"], {}, {"VLLM_NIXL_SIDE_CHANNEL_PORT": "5602"}),
        ([TRANSFER, '{"kv_connector": "MooncakeConnector"}'], {}, {"VLLM_MOONCAKE_BOOTSTRAP_PORT": "9006"}),
        ([TRANSFER, '{"kv_connector": "LMCacheConnectorV1"}'], {}, {}),
        ([], {"VLLM_NIXL_SIDE_CHANNEL_PORT": "x"}, {}),
    ],
)
def test_ports_of_variables_are_offset_where_they_are_used(
    words: list[str], environ: dict[str, str], expected: dict[str, str]
) -> None:
    assert offsets.own(words, {}, environ, 2, 4).variables == expected


def test_what_the_config_file_says_is_typed_over_it() -> None:
    in_file = {EVENTS: '{"endpoint": "tcp://*:5557"}', "--seed": "1", TRANSFER: NIXL}
    own = offsets.own(["--dtype", "half"], in_file, {}, 1, 1)
    assert own.words[:3] == ("--dtype", "half", EVENTS)
    assert json.loads(own.words[3]) == {"endpoint": "tcp://*:5558"}
    assert own.variables == {"VLLM_NIXL_SIDE_CHANNEL_PORT": "5601"}
