"""Which words are the endpoint's and which the engine's."""

import functools
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dp_vllm.engine.flags import Takes
from dp_vllm.errors import BadSettings
from dp_vllm.local.flags import config_file, split
from dp_vllm.local.flags.settings import SETTINGS, Setting, Settings
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


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


ENGINE_FLAGS = st.sampled_from(
    [
        ["--max-model-len", "8K"],
        ["--max_model_len=8K"],
        ["--max-model-l", "auto"],
        ["--no-enable-prefix-caching"],
        ["--served-model-name", "a", "b"],
        ["--allowed-media-domains", "example.org"],
        ["--kv-events-config", '{"publisher": "zmq"}'],
        ["--kv-events-config.topic", "x"],
        ["--middleware", "a.b", "--middleware", "c.d"],
        ["--hf-token"],
        ["-O3"],
        ["-q", "awq"],
        ["--of-the-future", "1", "-1"],
        ["--of-the-future=x y"],
    ]
)
VALUES = {
    "--engine": "sim",
    "--device-ids": "0,1",
    "--ssl-cert-reqs": "2",
    "--allowed-origins": '["*"]',
    "--allowed-methods": "[]",
    "--allowed-headers": "[]",
    "--policy": "round-robin",
    "--root-path": "/m",
    "--log-format": "json",
}


@functools.cache
def abbreviations(spelling: str) -> tuple[str, ...]:
    """The spelling, and every beginning of it that no other flag has."""
    beginnings = [spelling[:end] for end in range(4, len(spelling))]
    return (spelling, *(one for one in beginnings if sum(other.startswith(one) for other in FLAGS.spellings) == 1))


@st.composite
def our_flags(draw: st.DrawFn) -> tuple[Setting, list[str]]:
    """A flag of ours in any spelling, with a value that is allowed. (Not those that need others, or forbid some.)"""
    names = [name for name in SETTINGS if not name.startswith(("--ssl", "--api", "--file", "--record"))]
    setting = SETTINGS[draw(st.sampled_from(names))]
    spelling = draw(st.sampled_from(setting.flag.spellings))
    if spelling.startswith("--"):
        spelling = draw(st.sampled_from(abbreviations(spelling)))
        if draw(st.booleans()):
            spelling = "--" + spelling[2:].replace("-", "_")
    if setting.takes in (Takes.NOTHING, Takes.SWITCH):
        return setting, [spelling]
    value = VALUES.get(setting.name, "7")
    return setting, [f"{spelling}={value}"] if draw(st.booleans()) else [spelling, value]


@given(st.lists(st.one_of(ENGINE_FLAGS.map(lambda words: (None, words)), our_flags()), max_size=8))
def test_ours_are_caught_in_every_spelling_and_the_engines_stay_as_typed(
    flags: list[tuple[Setting | None, list[str]]],
) -> None:
    got = asked("MODEL", *(word for _, words in flags for word in words))

    assert got.model == "MODEL"
    assert got.engine_words == tuple(word for setting, words in flags if setting is None for word in words)
    assert not got.engine_flags & SETTINGS.keys()
    for setting, _ in flags:
        if setting is not None and setting.field and setting.takes is Takes.ONE:
            assert getattr(got.settings, setting.field) == setting.read(VALUES.get(setting.name, "7"))


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["-dp", "4"], "data_parallel_size", 4),
        (["-dp=4"], "data_parallel_size", 4),
        (["--data_parallel_size", "4"], "data_parallel_size", 4),
        (["-t", "2"], "tensor_parallel_size", 2),
        (["--tensor-par=2"], "tensor_parallel_size", 2),
        (["--port", "1", "--port", "2"], "port", 2),
        (["--api-key", "a", "b"], "api_key", ("a", "b")),
        (["--api-key", "a", "--api-key", "b"], "api_key", ("b",)),
        (["--api-key=-a"], "api_key", ("-a",)),
        (["--shutdown-timeout", "0.5"], "shutdown_timeout_seconds", 0.5),
        (["--uds", "/s"], "uds", Path("/s")),
        (["--device-ids", "2, 3"], "device_ids", ("2", "3")),
        (["--dry-r"], "dry_run", True),
        (["--replica-port", "9000"], "replica_ports", 9000),
    ],
)
def test_a_flag_of_ours_is_typed(words: list[str], field: str, value: object) -> None:
    assert getattr(asked("MODEL", *words).settings, field) == value


def test_without_flags_every_setting_has_its_default() -> None:
    assert asked("MODEL").settings == Settings()


@pytest.mark.parametrize(
    ("words", "gateway"),
    [
        (["--root-path", "/m"], ("--root-path", "/m")),
        (["--ssl-ciphers=-ALL"], ("--ssl-ciphers=-ALL",)),
        (["--no-access-log"], ("--no-access-log",)),
        (["--no-access-log", "--access-log"], ()),
        (["--allow-credentials"], ("--allow-credentials",)),
        (["--allow-credentials", "--no-allow-credentials"], ()),
        (["--policy", "least-load", "--policy", "round-robin"], ("--policy", "round-robin")),
        (["--shutdown_timeout=3"], ("--shutdown-timeout", "3")),
    ],
)
def test_the_gateway_is_told_what_is_its_own(words: list[str], gateway: tuple[str, ...]) -> None:
    assert asked("MODEL", *words).settings.gateway_words == gateway


@pytest.mark.parametrize(
    ("words", "model"),
    [
        (["m", "-tp", "2"], "m"),
        (["-tp", "2", "m"], "m"),
        (["--model", "m"], "m"),
        (["-dp", "2", "--model=m", "--seed", "1"], "m"),
        (["--enforce-eager", "m"], "m"),
        (["--hf-token=x", "m"], "m"),
        (["--", "m"], "m"),
    ],
)
def test_the_model_is_found(words: list[str], model: str) -> None:
    got = asked(*words)

    assert got.model == model
    assert "m" not in got.engine_words
    assert "--" not in got.engine_words


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "MODEL is missing, for example: dp-vllm serve Qwen/Qwen3-8B -dp 4"),
        ([""], "MODEL is empty (a variable that is not set?), for example: dp-vllm serve Qwen/Qwen3-8B -dp 4"),
        (
            ["--api-key", "secret", "m"],
            "MODEL is missing (--api-key took the words behind it, so put MODEL first), "
            "for example: dp-vllm serve Qwen/Qwen3-8B -dp 4",
        ),
        (
            ["m", "n"],
            "one MODEL is served, not both 'm' and 'n'; if one of them is a flag's value, write --flag=VALUE",
        ),
        (
            ["m", "--model", "n"],
            "one MODEL is served, not both 'm' and 'n'; if one of them is a flag's value, write --flag=VALUE",
        ),
        (["m", "-dp", "0"], "-dp: '0' is not allowed; allowed are whole numbers from 1 on"),
        (["m", "-dp", "x"], "-dp: 'x' is not allowed; allowed are whole numbers from 1 on"),
        (["m", "--port", "99999"], "--port: '99999' is not allowed; allowed are ports from 1 to 65535"),
        (["m", "--port"], "--port needs a value; one that begins with '-' is written --port=VALUE"),
        (
            ["m", "--shutdown-timeout", "-1"],
            "--shutdown-timeout: '-1' is not allowed; allowed are seconds from 0 to 86400",
        ),
        (
            ["m", "--shutdown-timeout", "nan"],
            "--shutdown-timeout: 'nan' is not allowed; allowed are seconds from 0 to 86400",
        ),
        (
            ["m", "--replica-ahead-seconds", "0"],
            "--replica-ahead-seconds: '0' is not allowed; allowed are seconds above 0, at most 86400",
        ),
        (
            ["m", "--policy", "best"],
            "--policy: 'best' is not allowed; allowed are prefix, least-load, round-robin, power-of-two, session, "
            "consistent-hash",
        ),
        (["m", "--root-path", "m"], "--root-path: 'm' is not allowed; it begins with /"),
        (["m", "--ssl-cert-reqs", "3"], "--ssl-cert-reqs: '3' is not allowed; allowed are 0, 1, 2"),
        (
            ["m", "--engine", "sglang"],
            "--engine: 'sglang' is not allowed; allowed are vllm, sim, and the path of another vLLM's executable, "
            "like /opt/venv/bin/vllm",
        ),
        (
            ["m", "--allowed-origins", "*"],
            "--allowed-origins: '*' is not allowed; a JSON list of strings is needed, like '[\"https://example.org\"]'",
        ),
        (
            ["m", "--device-ids", "0,GPU-1"],
            "--device-ids: '0,GPU-1' is not allowed; allowed are GPU indexes like 2,3, "
            "or UUIDs like GPU-5f0c1a52,GPU-77d1b0c4",
        ),
        (["m", "--device-ids", "0,0"], "--device-ids: '0,0' is not allowed; each GPU may be named once"),
        (["m", "--dry-run=yes"], "--dry-run: 'yes' is too much, it takes no value"),
        (["m", "--uds="], "--uds: '' is not allowed; a path is needed"),
        (
            ["m", "--api-key", ""],
            "--api-key: a key has at least one character, and neither blanks nor control characters",
        ),
        (
            ["m", "--api-key", "my secret"],
            "--api-key: a key has at least one character, and neither blanks nor control characters",
        ),
        (
            ["m", "--api-key", "a", "--api-key-file", "f"],
            "--api-key and --api-key-file: give one of them; the file can hold all keys",
        ),
        (
            ["m", "--record", "f", "--gateway-workers", "2"],
            "--record: only one process can record all requests; leave out --gateway-workers meanwhile",
        ),
        (["m", "--ssl-keyfile", "k"], "--ssl-keyfile: a key without its certificate; add --ssl-certfile PATH"),
        (
            ["m", "--config", "a.yaml", "--config=b.yaml"],
            "--config: only one file can be given, not both 'a.yaml' and 'b.yaml'",
        ),
        (["m", "-dp4"], "-dp4 is no flag; write -dp 4"),
        (
            ["m", "--replica-prots", "9000"],
            "--replica-prots is no flag; did you mean --replica-ports? "
            "(If your vLLM does have --replica-prots, put it into a --config file)",
        ),
        (
            ["m", "--data_paralel_size", "2"],
            "--data_paralel_size is no flag; did you mean --data-parallel-size? "
            "(If your vLLM does have --data_paralel_size, put it into a --config file)",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(words: list[str], sentence: str) -> None:
    assert refused(*words) == sentence


def test_an_abbreviation_that_may_be_ours_is_to_be_written_out() -> None:
    told = refused("m", "--data-parallel-s", "2")

    assert told.startswith("--data-parallel-s may mean --data-parallel-")
    assert told.endswith("; write it out")
    assert "--data-parallel-size" in told


RANKS = (
    "dp-vllm's -dp starts complete, independent copies of the model, which have no ranks; experts spread over "
    "data-parallel ranks are one engine: start it with `vllm serve MODEL -dp N ...`"
)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["-dpl", "2"], f"-dpl 2: {RANKS}"),
        (["-dpr", "1"], f"-dpr 1: {RANKS}"),
        (["-dpn", "0"], f"-dpn 0: {RANKS}"),
        (["--data-parallel-rank=0"], f"--data-parallel-rank 0: {RANKS}"),
        (["--data_parallel_hybrid_lb"], f"--data_parallel_hybrid_lb: {RANKS}"),
        (
            ["-dp", "4", "--enable-expert-parallel"],
            "--data-parallel-size: 4 with --enable-expert-parallel would be 4 complete copies of the model, each with "
            "all experts; experts spread over data-parallel ranks are one engine: start it with "
            "`vllm serve MODEL -dp 4 --enable-expert-parallel`, or drop one of the two flags",
        ),
        (
            ["-n4"],
            "-n 4: dp-vllm serve runs replicas that fit into one machine; start an engine that spans several with "
            "`vllm serve`, and put `dp-vllm gateway --replica http://HOST:PORT` in front of such engines",
        ),
        (
            ["--headless"],
            "--headless: an engine without an API server cannot stand behind the endpoint; leave it out",
        ),
        (
            ["--grpc"],
            "--grpc: the endpoint speaks HTTP to its engines and its clients; leave it out, or run `vllm serve` itself",
        ),
        (
            ["-asc", "4"],
            "-asc 4: each replica has one API server, and the gateway spreads requests; raise -dp instead",
        ),
        (
            ["--enable-ssl-refresh"],
            "--enable-ssl-refresh: the endpoint reads its certificate when it starts; "
            "leave it out and restart to renew it",
        ),
    ],
)
def test_what_makes_no_sense_with_replicas_is_refused_with_what_to_do_instead(words: list[str], sentence: str) -> None:
    assert refused("m", *words) == sentence


@pytest.mark.parametrize(
    "words",
    [
        ["--nnodes", "1"],
        ["-r0"],
        ["--api-server-count=1"],
        ["--no-data-parallel-hybrid-lb"],
        ["--no-enable-ssl-refresh"],
    ],
)
def test_a_flag_that_says_what_is_the_case_anyway_is_dropped(words: list[str]) -> None:
    assert asked("m", *words).engine_words == ()


def test_one_copy_may_spread_its_experts() -> None:
    assert asked("m", "-tp", "4", "-ep").engine_words == ("-ep",)
    assert asked("m", "-dp", "2", "-ep", "--no-enable-expert-parallel").settings.data_parallel_size == 2


def test_a_key_never_stands_in_an_error() -> None:
    assert "hunter 2" not in refused("m", "--api-key", "hunter 2")
    assert "hunter2" not in refused("--api-key", "hunter2", "m")


def test_a_flag_that_is_nearly_vllms_is_passed_on_with_a_note() -> None:
    got = asked("m", "--max-model-length", "8K")

    assert got.engine_words == ("--max-model-length", "8K")
    (note,) = got.notes
    assert note.startswith("--max-model-length is not a flag of vLLM ")
    assert note.endswith(" (--max-model-len is); the engine gets it as you typed it")


def test_the_flags_that_the_engine_gets_are_known_by_name() -> None:
    assert asked("m", "--enable_server_load", "-q=awq").engine_flags == {
        "--enable-server-load-tracking",
        "--quantization",
    }


@pytest.mark.parametrize(
    ("environ", "keys"),
    [
        ({"VLLM_API_KEY": "a"}, ("a",)),
        ({"DP_VLLM_API_KEY": "a b", "VLLM_API_KEY": "c"}, ("a", "b")),
        ({"DP_VLLM_API_KEY": "", "VLLM_API_KEY": "c"}, ("c",)),
        ({}, ()),
    ],
)
def test_keys_come_from_the_environment_too(environ: dict[str, str], keys: tuple[str, ...]) -> None:
    assert asked("m", environ=environ).settings.api_key == keys


def test_typed_keys_win_over_the_environment() -> None:
    environ = {"VLLM_API_KEY": "c"}

    assert asked("m", "--api-key", "a", environ=environ).settings.api_key == ("a",)
    assert asked("m", "--api-key-file", "f", environ=environ).settings.api_key == ()


class TestConfigFile:
    def test_its_flags_are_divided_like_typed_ones(self, tmp_path: Path) -> None:
        path = write(
            tmp_path / "serve.yaml",
            """
            model: m
            data_parallel_size: 2
            api-key: [a, b]
            port: 9000
            access-log: false
            headless: false
            host: null
            allowed-origins: '["*"]'
            max-model-len: 8192
            enable-prefix-caching: false
            compilation-config: {pass_config: {fuse: true}}
            """,
        )

        got = asked("--config", path, "--seed", "1")

        assert got.model == "m"
        assert got.settings.data_parallel_size == 2
        assert got.settings.api_key == ("a", "b")
        assert got.settings.port == 9000
        assert got.settings.host is None
        assert set(got.settings.gateway_words) == {"--no-access-log", "--allowed-origins", '["*"]'}
        assert got.engine_words == ("--seed", "1")
        assert got.engine_flags == {"--seed", "--max-model-len", "--enable-prefix-caching", "--compilation-config"}
        assert got.config_text is not None
        assert yaml.safe_load(got.config_text) == {
            "max-model-len": 8192,
            "enable-prefix-caching": False,
            "compilation-config": {"pass_config": {"fuse": True}},
        }

    @pytest.mark.parametrize("form", ["--config {}", "--config={}"])
    def test_typed_flags_win_over_it(self, tmp_path: Path, form: str) -> None:
        path = write(tmp_path / "serve.yml", "model: m\nport: 9000\ntensor-parallel-size: 2\n")

        got = asked("n", *form.format(path).split(), "-tp", "4")

        assert (got.model, got.settings.port, got.settings.tensor_parallel_size) == ("n", 9000, 4)

    def test_without_flags_of_ours_the_engine_reads_the_file_itself(self, tmp_path: Path) -> None:
        path = write(tmp_path / "serve.yaml", "max-model-len: 8192\n")

        got = asked("m", "--config", path)

        assert got.config is not None and str(got.config.path) == path
        assert got.config_text is None

    def test_an_empty_one_says_nothing(self, tmp_path: Path) -> None:
        assert asked("m", "--config", write(tmp_path / "serve.yaml", "")).settings == Settings()

    def test_experts_are_found_in_it(self, tmp_path: Path) -> None:
        path = write(tmp_path / "serve.yaml", "enable-expert-parallel: true\n")

        assert refused("m", "-dp", "2", "--config", path).startswith("--data-parallel-size: 2 with --enable-expert")

    def test_a_flag_that_is_nearly_ours_may_stand_in_it(self, tmp_path: Path) -> None:
        path = write(tmp_path / "serve.yaml", "replica-prots: 3\n")

        assert asked("m", "--config", path).config_text is None

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("port: x", "port in {}: 'x' is not allowed; allowed are ports from 1 to 65535"),
            ("port: [1, 2]", "port in {}: one value is needed, not 2"),
            ("port: true", "port in {} needs a value"),
            ("config: x.yaml", "config in {}: a --config file cannot name another one"),
            ("nnodes: 2", "nnodes in {} 2: dp-vllm serve runs replicas that fit into one machine"),
            ("- a", "--config: {} must map flags to values, like `max-model-len: 8192`"),
            ("a: [", "--config: {} is not YAML: while parsing"),
        ],
    )
    def test_what_cannot_be_names_the_file(self, tmp_path: Path, text: str, sentence: str) -> None:
        path = write(tmp_path / "serve.yaml", text)

        assert refused("m", "--config", path).startswith(sentence.format(path))

    def test_it_must_be_there_and_be_yaml(self, tmp_path: Path) -> None:
        missing = str(tmp_path / "missing.yaml")

        assert refused("m", "--config", missing) == f"--config: {missing} cannot be read: No such file or directory"
        assert refused("m", "--config", "a.json") == (
            "--config: 'a.json' is not a .yaml or .yml file, and vLLM takes no other"
        )
