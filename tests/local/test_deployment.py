"""From the words of a command line to everything that is to run."""

import subprocess
import sys
from pathlib import Path

import pytest

from dp_vllm import api_keys
from dp_vllm.engine.command import known_flags
from dp_vllm.errors import BadSettings, DpVllmError, UserError
from dp_vllm.local import command_line
from dp_vllm.local.deployment import Deployment, Listen
from dp_vllm.local.flags.settings import SETTINGS


def deployed(tmp_path: Path, *words: str, **environ: str) -> Deployment:
    request = command_line.understand(words, {"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path), **environ})
    assert request is not None
    return request.deployment


def refused(tmp_path: Path, *words: str, **environ: str) -> str:
    with pytest.raises(DpVllmError) as error:
        deployed(tmp_path, *words, **environ)
    return str(error.value)


def fake_vllm(tmp_path: Path, version: str = "0.32.0") -> str:
    """An executable that looks like an installed vLLM."""
    (tmp_path / "venv" / "lib" / "python3.12" / "site-packages" / f"vllm-{version}.dist-info").mkdir(parents=True)
    executable = tmp_path / "venv" / "bin" / "vllm"
    executable.parent.mkdir()
    executable.write_text("#!/bin/sh\n")
    executable.chmod(0o755)
    return str(executable)


def test_each_replica_has_its_own_gpus_and_socket(tmp_path: Path) -> None:
    vllm = fake_vllm(tmp_path)

    deployment = deployed(tmp_path, "m", "--engine", vllm, "-dp", "2", "-tp", "2", CUDA_VISIBLE_DEVICES="3,2,1,0")

    run = tmp_path / "dp-vllm" / "8000"
    assert deployment.engine == "vllm 0.32.0"
    assert [replica.name for replica in deployment.replicas] == ["0", "1"]
    assert [replica.gpus for replica in deployment.replicas] == [("3", "2"), ("1", "0")]
    assert [replica.address for replica in deployment.replicas] == [
        f"unix:{run}/replica-0.sock",
        f"unix:{run}/replica-1.sock",
    ]
    second = deployment.replicas[1].command
    assert second.argv[:5] == (vllm, "serve", "m", "--tensor-parallel-size", "2")
    assert second.argv[-2:] == ("--uds", f"{run}/replica-1.sock")
    assert second.variables["CUDA_VISIBLE_DEVICES"] == "1,0"


def test_no_two_replicas_have_the_same_fixed_port(tmp_path: Path) -> None:
    words = ("m", "--engine", "sim", "-dp", "2", "--kv-events-config", '{"endpoint": "tcp://*:5557"}')
    variables = {"VLLM_NIXL_SIDE_CHANNEL_PORT": "5600", "PROMETHEUS_MULTIPROC_DIR": "/tmp/metrics"}
    deployment = deployed(tmp_path, *words, **variables)
    first, second = deployment.replicas
    (third,) = deployment.more((second,), 1, "")
    (fourth,) = deployment.more((first, second), 1, "")
    for replica, offset in ((first, 0), (second, 1), (third, 0), (fourth, 2)):
        environment = replica.command.environment(variables)
        assert environment["VLLM_NIXL_SIDE_CHANNEL_PORT"] == str(5600 + offset)
        assert f'{{"endpoint": "tcp://*:{5557 + offset}"}}' in replica.command.argv
        assert "PROMETHEUS_MULTIPROC_DIR" not in environment


def test_events_on_ports_next_to_each_other_are_warned_of_where_replicas_would_meet(tmp_path: Path) -> None:
    endpoints = '{"endpoint": "tcp://*:5557", "replay_endpoint": "tcp://*:5558"}'
    words = ("m", "--engine", "sim", "--host", "127.0.0.1", "--kv-events-config", endpoints)
    assert deployed(tmp_path, *words).warnings == ()
    assert deployed(tmp_path, *words, "-dp", "2").warnings == (
        "--kv-events-config: the replicas 0 and 1 both listen on port 5558, because each adds its number: one will "
        "fail; put endpoint and replay_endpoint 2 ports apart or more",
    )


def test_further_replicas_are_as_the_first_on_what_those_leave_free(tmp_path: Path) -> None:
    words = ("m", "--engine", "sim", "-dp", "2", "-tp", "2", "--replica-ports", "9000")
    deployment = deployed(tmp_path, *words, CUDA_VISIBLE_DEVICES="7,6,5,4,3,2")
    first, second = deployment.replicas

    (third,) = deployment.more([first, second], 1, "")
    assert (third.name, third.gpus, third.address) == ("2", ("3", "2"), "127.0.0.1:9002")
    (again,) = deployment.more([second, third], 1, "")
    assert again == first
    with pytest.raises(UserError, match=r"needs .* = 2 GPUs, CUDA_VISIBLE_DEVICES without those in use has 0"):
        deployment.more([first, second, third], 1, "")
    with pytest.raises(BadSettings, match="--replica-ports: 56537 replicas would need the ports"):
        deployed(tmp_path, "m", "--engine", "sim", "--replica-ports", "9000").more([first], 56536, "")


def test_the_gateway_is_told_where_everything_is(tmp_path: Path) -> None:
    deployment = deployed(tmp_path, "m", "--engine", "sim", "--port", "9000", "--root-path", "/m")

    run = tmp_path / "dp-vllm" / "9000"
    assert deployment.gateway.argv == (
        *(sys.executable, "-I", "-m", "dp_vllm_gateway"),
        *("--endpoints-file", f"{run}/endpoints.json", "--admin-socket", f"{run}/admin.sock"),
        *("--root-path", "/m"),
    )


def test_the_gateway_knows_every_word_that_it_is_told(tmp_path: Path) -> None:
    certificate = tmp_path / "certificate"
    certificate.write_text("")
    values = {"PATH": str(certificate), "JSON": '["*"]', "LIST": "ALL", "0|1|2": "1", "text|json": "json"}
    told = [setting for setting in SETTINGS.values() if setting.gateway and setting.name != "--root-path"]
    words = ["--root-path", "/m", "--no-access-log"]
    by_name = {"--policy": "round-robin", "--gateway-workers": "1"}
    for setting in told:
        value = values.get(setting.value, by_name.get(setting.name, "7"))
        words += [setting.name, value] if setting.value else [setting.name] if setting.default == "no" else []

    gateway = deployed(tmp_path, "m", "--engine", "sim", *words).gateway

    assert {setting.name for setting in told if setting.default != "yes"} <= set(gateway.argv)
    subprocess.run([*gateway.argv, "--help"], check=True, capture_output=True, timeout=30)


def test_no_variable_sets_the_gateway_behind_the_command_lines_back(tmp_path: Path) -> None:
    environ = {"DP_VLLM_GATEWAY_PORT": "tcp://10.0.0.1:80", "DP_VLLM_API_KEY": "a", "VLLM_LOGGING_LEVEL": "DEBUG"}

    gateway = deployed(tmp_path, "m", "--engine", "sim", **environ).gateway

    assert not {*environ, "DP_VLLM_GATEWAY_PORT"} & gateway.environment(environ).keys()


@pytest.mark.parametrize(("engine", "gets_tokens"), [("sim", False), ("vllm", True)])
def test_only_an_engine_that_downloads_gets_the_tokens_of_the_environment(
    tmp_path: Path, engine: str, gets_tokens: bool
) -> None:
    tokens = {"HF_TOKEN": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    executable = fake_vllm(tmp_path, "0.32.0+cpu") if engine == "vllm" else engine

    deployment = deployed(tmp_path, "m", "--engine", executable, **tokens)

    assert not tokens.keys() & deployment.gateway.environment(tokens).keys()
    assert bool(tokens.keys() & deployment.replicas[0].command.environment(tokens).keys()) is gets_tokens


def test_keys_go_to_the_gateway_in_a_file_and_to_nobody_else(tmp_path: Path) -> None:
    deployment = deployed(tmp_path, "m", "--engine", "sim", "-dp", "2", "--api-key", "a=b", "c", VLLM_API_KEY="old")

    keys = deployment.directory.keys
    assert deployment.files == {keys: "key1: a=b\nkey2: c\n"}
    assert deployment.gateway.argv[-2:] == ("--api-key-file", str(keys))
    assert "VLLM_API_KEY" not in deployment.gateway.environment({"VLLM_API_KEY": "b"})
    for replica in deployment.replicas:
        assert "VLLM_API_KEY" not in replica.command.environment({"VLLM_API_KEY": "b"})
        assert "a=b" not in replica.command.argv


def test_keys_of_administrators_are_marked_in_the_gateways_file(tmp_path: Path) -> None:
    words = ("m", "--engine", "sim", "--api-key", "a", "a", "c", "--admin-api-key", "c", "=:")
    deployment = deployed(tmp_path, *words)

    (text,) = deployment.files.values()
    assert text == "key1: a\nadmin1 (admin): c\nadmin2 (admin): =:\n"
    assert [(each.key, each.admin) for each in api_keys.read(text.encode()).keys] == [
        *(("a", False), ("c", True), ("=:", True))
    ]

    variable = {"DP_VLLM_ADMIN_API_KEY": "x y"}
    deployment = deployed(tmp_path, "m", "--engine", "sim", **variable)
    assert list(deployment.files.values()) == ["admin1 (admin): x\nadmin2 (admin): y\n"]
    assert not deployment.gateway.environment(variable)


def test_a_key_file_of_the_users_is_read_by_the_gateway_itself(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("a\n")

    deployment = deployed(tmp_path, "m", "--engine", "sim", "--api-key-file", str(file))

    assert deployment.files == {}
    assert deployment.gateway.argv[-2:] == ("--api-key-file", str(file))

    deployment = deployed(tmp_path, "m", "--engine", "sim", "--api-key-file", str(file), "--admin-api-key", "x")
    given = deployment.directory.keys
    assert deployment.files == {given: "admin1 (admin): x\n"}
    flags = ("--api-key-file", str(file), "--admin-api-key-file", str(given))
    assert deployment.gateway.argv[-4:] == flags


def test_engines_get_a_copy_of_the_config_file_without_ours(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("model: m\nport: 9000\nseed: 1\n")

    deployment = deployed(tmp_path, "--engine", "sim", "--config", str(file))

    copy = tmp_path / "dp-vllm" / "9000" / "engine.yaml"
    assert deployment.files == {copy: "seed: 1\n"}
    argv = deployment.replicas[0].command.argv
    assert argv[argv.index("m") + 1 :][:2] == ("--config", str(copy))


def test_a_config_file_without_ours_is_used_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("seed: 1\n")

    deployment = deployed(tmp_path, "m", "--engine", "sim", "--config", str(file))

    assert deployment.files == {}
    assert str(file) in deployment.replicas[0].command.argv


@pytest.mark.parametrize(
    ("words", "file", "seeds"),
    [
        ([], "", [[], [], []]),
        (["--seed-per-replica"], "", [["0"], ["1"], ["2"]]),
        (["--seed-per-replica", "--seed=40"], "", [["40"], ["41"], ["42"]]),
        (["--seed-per-replica"], "seed: 7\n", [["7"], ["8"], ["9"]]),
        ([], "seed: 7\nseed-per-replica: true\n", [["7"], ["8"], ["9"]]),
        (["--seed", "1"], "", [["1"], ["1"], ["1"]]),
    ],
)
def test_replicas_can_have_seeds_of_their_own(
    tmp_path: Path, words: list[str], file: str, seeds: list[list[str]]
) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text(file)
    deployment = deployed(tmp_path, "m", "--engine", "sim", "-dp", "3", *words, "--config", str(config))

    argvs = [
        replica.command.argv for replica in (*deployment.replicas[:2], *deployment.more(deployment.replicas[:2], 1, ""))
    ]
    told = [[item.values[0] for item in known_flags().read(argv) if item.spelling == "--seed"][-1:] for argv in argvs]
    assert told == seeds


def test_replicas_can_listen_on_ports(tmp_path: Path) -> None:
    deployment = deployed(tmp_path, "m", "--engine", "sim", "-dp", "2", "--replica-ports", "9000")

    assert [replica.address for replica in deployment.replicas] == ["127.0.0.1:9000", "127.0.0.1:9001"]
    assert deployment.replicas[1].command.argv[-4:] == ("--host", "127.0.0.1", "--port", "9001")


@pytest.mark.parametrize(
    ("words", "name"),
    [([], "8000"), (["--port", "9000"], "9000"), (["--name", "x"], "x"), (["--uds", "/tmp/my.sock"], "my.sock")],
)
def test_a_run_is_called_after_where_it_listens(tmp_path: Path, words: list[str], name: str) -> None:
    assert deployed(tmp_path, "m", "--engine", "sim", *words).name == name


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        (Listen(None, 8000), "http://127.0.0.1:8000"),
        (Listen("0.0.0.0", 8000), "http://127.0.0.1:8000"),
        (Listen("::1", 80, tls=True), "https://[::1]:80"),
        (Listen("node7", 80), "http://node7:80"),
        (Listen(None, 8000, Path("/s")), "unix:/s"),
    ],
)
def test_the_endpoint_tells_what_a_client_here_may_use(listen: Listen, url: str) -> None:
    assert listen.url == url


OPEN = (
    "everybody who reaches this machine can use the endpoint: it listens on all interfaces and asks for no key; "
    "give it --api-key KEY, or --host 127.0.0.1"
)


@pytest.mark.parametrize(
    ("words", "warnings"),
    [
        ([], (OPEN,)),
        (["--host", "0.0.0.0"], (OPEN,)),
        (["--host", "::"], (OPEN,)),
        (["--host", "[::]"], (OPEN,)),
        (["--host", "0:0:0:0:0:0:0:0"], (OPEN,)),
        (["--host", "[::1]"], ()),
        (["--host", "127.0.0.1"], ()),
        (["--api-key", "k"], ()),
        (["--uds", "/tmp/s"], ()),
    ],
)
def test_an_endpoint_open_to_everybody_is_warned_of_once(
    tmp_path: Path, words: list[str], warnings: tuple[str, ...]
) -> None:
    assert deployed(tmp_path, "m", "--engine", "sim", "-dp", "2", *words).warnings == warnings


def test_gpus_that_one_replica_leaves_unused_are_told(tmp_path: Path) -> None:
    words = ("m", "--engine", fake_vllm(tmp_path), "--host", "127.0.0.1", "-tp", "2")

    told = "one replica leaves GPUs unused; -dp 2 would use all that there is room for"

    assert told in deployed(tmp_path, *words, CUDA_VISIBLE_DEVICES="0,1,2,3,4").warnings
    assert told not in deployed(tmp_path, *words, "-dp", "2", CUDA_VISIBLE_DEVICES="0,1,2,3,4").warnings


def test_a_vllm_too_old_or_newer_than_known_is_told(tmp_path: Path) -> None:
    old = fake_vllm(tmp_path / "old", "0.17.2")
    new = fake_vllm(tmp_path / "new", "0.99.0")

    assert refused(tmp_path, "m", "--engine", old) == (
        f"{old} is vLLM 0.17.2, and dp-vllm works with vLLM 0.18 to 0.33: pip install --upgrade vllm, or name a newer "
        "one with --engine PATH"
    )
    deployment = deployed(tmp_path, "m", "--engine", new, "--host", "127.0.0.1", CUDA_VISIBLE_DEVICES="0")
    assert deployment.warnings == ("vLLM 0.99.0 is newer than the newest that this dp-vllm was tried with (0.33)",)


def test_the_installed_vllm_is_found_on_the_path(tmp_path: Path) -> None:
    vllm = fake_vllm(tmp_path)

    deployment = deployed(tmp_path, "m", PATH=str(Path(vllm).parent), CUDA_VISIBLE_DEVICES="0")

    assert deployment.replicas[0].command.argv[:2] == (vllm, "serve")


def test_without_vllm_the_fix_is_told_in_one_line(tmp_path: Path) -> None:
    assert refused(tmp_path, "m", PATH=str(tmp_path)) == (
        "vllm is not installed: `pip install vllm` puts it beside dp-vllm, --engine PATH names one elsewhere, "
        "and --engine sim tries everything without a model and without GPUs"
    )


def test_an_engine_that_cannot_be_started_is_named(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")

    assert refused(tmp_path, "m", "--engine", "/no/vllm") == "--engine: /no/vllm does not exist"
    assert refused(tmp_path, "m", "--engine", str(plain)) == f"--engine: {plain} is not executable"
    assert refused(tmp_path, "m", "--engine", str(tmp_path)) == (
        f"--engine: {tmp_path} is a directory; name the executable in it, like {tmp_path}/bin/vllm"
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--json"], "--json goes with --dry-run, whose table it prints as JSON"),
        (["--api-key-file", "/no/keys"], "--api-key-file: '/no/keys' is not a file that can be read"),
        (["--api-key-file", "/dev/null"], "--api-key-file: '/dev/null' is not a file that can be read"),
        (["--ssl-certfile", "/no/cert"], "--ssl-certfile: '/no/cert' is not a file that can be read"),
        (["--uds", "/no/such/s"], "--uds: '/no/such/s' is to be made in a directory that does not exist"),
        (["--uds", "/tmp/" + "x" * 103], f"--uds: '/tmp/{'x' * 103}' has 108 bytes, a socket's path at most 107"),
        (["--replica-ports", "65535", "-dp", "2"], "--replica-ports: 2 replicas would need the ports 65535 to 65536"),
        (
            ["--seed-per-replica", "--seed", "x"],
            "--seed: 'x' cannot be counted up from; with --seed-per-replica give a whole number",
        ),
        (
            ["--replica-ports", "7998", "-dp", "4"],
            "--replica-ports: the replicas' ports 7998 to 8001 include the endpoint's own, 8000",
        ),
    ],
)
def test_what_would_fail_later_is_refused_before_anything_starts(
    tmp_path: Path, words: list[str], sentence: str
) -> None:
    with pytest.raises(BadSettings) as error:
        deployed(tmp_path, "m", "--engine", "sim", *words)

    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("text", "problem"),
    [("# none\n", "it holds no key"), ("fine\nalice: \n", "line 2: a name without a key")],
)
def test_a_key_file_that_the_gateway_would_refuse_is_refused_first(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "keys").write_text(text)

    with pytest.raises(BadSettings, match=rf"--api-key-file: '.*/keys': {problem}"):
        deployed(tmp_path, "m", "--engine", "sim", "--api-key-file", str(tmp_path / "keys"))


def test_the_arithmetic_is_checked_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^needs dp\*tp\*pp = 4\*2\*1 = 8 GPUs, CUDA_VISIBLE_DEVICES has 4"):
        deployed(tmp_path, "m", "--engine", fake_vllm(tmp_path), "-dp", "4", "-tp", "2", CUDA_VISIBLE_DEVICES="0,1,2,3")


@pytest.mark.parametrize("words", [["-h"], ["m", "--help"], ["--help=all"]])
def test_help_asks_for_nothing_else(tmp_path: Path, words: list[str]) -> None:
    assert command_line.understand(words, {}) is None
