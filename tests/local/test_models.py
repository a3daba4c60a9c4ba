"""From DPModel objects to everything that is to run: the same files that a cluster takes."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dp_vllm.errors import BadSettings, DpVllmError
from dp_vllm.local import command_line, show
from dp_vllm.local.deployment import Deployment

EXAMPLES = Path(__file__).parents[2] / "examples"
WITH_MODELS = sorted(path for path in EXAMPLES.glob("*.yaml") if "kind: DPModel" in path.read_text())
SIM = ("--engine", "sim", "--host", "127.0.0.1")


def dpmodel(name: str, **spec: Any) -> dict[str, Any]:
    body = {"model": f"org/{name}", **spec}
    return {"apiVersion": "dpvllm.io/v1alpha1", "kind": "DPModel", "metadata": {"name": name}, "spec": body}


def file(tmp_path: Path, *models: dict[str, Any], name: str = "models.yaml") -> Path:
    path = tmp_path / name
    path.write_text(yaml.safe_dump_all(models, sort_keys=False))
    return path


def deployed(tmp_path: Path, *words: str | Path, **environ: str) -> Deployment:
    environment = {"HOME": str(tmp_path), **environ}  # sockets would be below a short path, as a user's are
    request = command_line.understand([*map(str, words), *SIM], environment)
    assert request is not None
    return request.deployment


def served(tmp_path: Path, *models: dict[str, Any], words: tuple[str, ...] = (), **environ: str) -> Deployment:
    return deployed(tmp_path, "-f", file(tmp_path, *models), *words, **environ)


def refused(tmp_path: Path, *models: dict[str, Any], words: tuple[str, ...] = (), **environ: str) -> str:
    with pytest.raises(DpVllmError) as error:
        served(tmp_path, *models, words=words, **environ)
    return str(error.value).removeprefix(f"{tmp_path}/")


def engine_words(deployment: Deployment, replica: int = 0) -> list[str]:
    """What its engine is told, without what every engine is."""
    argv = deployment.replicas[replica].command.argv
    return list(argv[4 : argv.index("--enable-server-load-tracking")])


def test_each_model_has_replicas_flags_and_gpus_of_its_own(tmp_path: Path) -> None:
    chat = dpmodel("chat", servedModelName="talk", replicas=2, tensorParallelSize=2)
    vectors = dpmodel("vectors", engine={"args": ["--runner", "pooling"], "env": [{"name": "A", "value": "1"}]})

    deployment = served(tmp_path, vectors, chat, CUDA_VISIBLE_DEVICES="0,1,2,3,4")

    assert [(one.name, one.models, one.gpus) for one in deployment.replicas] == [
        ("vectors-0", ("org/vectors",), ("4",)),
        ("chat-0", ("talk",), ("0", "1")),
        ("chat-1", ("talk",), ("2", "3")),
    ]
    assert engine_words(deployment) == ["org/vectors", "--runner", "pooling"]
    assert engine_words(deployment, 1) == [
        *("org/chat", "--served-model-name", "talk", "--tensor-parallel-size", "2"),
    ]
    variables = deployment.replicas[0].command.variables
    assert (variables["A"], variables["CUDA_VISIBLE_DEVICES"]) == ("1", "4")
    assert deployment.model == "org/vectors, org/chat"
    assert deployment.name == "8000"


def test_a_single_object_is_run_as_a_command_line_is(tmp_path: Path) -> None:
    args = ["--max-model-len", "4096"]
    typed = deployed(tmp_path, "org/chat", *args, "-dp", "2", "-tp", "2")

    written = served(tmp_path, dpmodel("chat", replicas=2, tensorParallelSize=2, engine={"args": args}))

    assert [replica.command.argv for replica in written.replicas] == [one.command.argv for one in typed.replicas]
    assert [(one.name, one.models) for one in written.replicas] == [("0", ()), ("1", ())]


def test_models_may_be_in_several_files_and_in_the_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = file(tmp_path, dpmodel("a"), name="a.yaml")
    with file(tmp_path, dpmodel("b"), dpmodel("c")).open() as second:
        monkeypatch.setattr(sys, "stdin", second)
        deployment = deployed(tmp_path, "-f", first, "--file=-")

    assert [replica.name for replica in deployment.replicas] == ["a-0", "b-0", "c-0"]


def test_ports_are_counted_over_all_models(tmp_path: Path) -> None:
    deployment = served(tmp_path, dpmodel("a", replicas=2), dpmodel("b"), words=("--replica-ports", "9000"))

    assert [one.address for one in deployment.replicas] == [f"127.0.0.1:{port}" for port in (9000, 9001, 9002)]


def test_more_replicas_of_a_model_get_numbers_gpus_and_ports_that_nobody_has(tmp_path: Path) -> None:
    big, small = dpmodel("big", tensorParallelSize=2), dpmodel("small", replicas=2)
    deployment = served(
        *(tmp_path, big, small), words=("--replica-ports", "9000"), CUDA_VISIBLE_DEVICES=",".join(map(str, range(8)))
    )
    present = [replica for replica in deployment.replicas if replica.name != "small-0"]

    more = deployment.more(present, 2, "org/small")

    assert [(one.name, one.models, one.gpus, one.address) for one in more] == [
        ("small-0", ("org/small",), ("2",), "127.0.0.1:9001"),
        ("small-2", ("org/small",), ("4",), "127.0.0.1:9003"),
    ]
    with pytest.raises(DpVllmError, match=r"needs dp\*tp\*pp = 3\*2\*1 = 6 GPUs, "):
        deployment.more(present, 3, "org/big")


def test_a_dry_run_tells_which_replica_serves_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show.print_json(served(tmp_path, dpmodel("a"), dpmodel("b", servedModelName="x")))

    told = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["models"]) for one in told["replicas"]] == [("a-0", ["org/a"]), ("b-0", ["x"])]


@pytest.mark.parametrize("example", WITH_MODELS, ids=lambda path: path.name)
def test_every_example_of_a_model_for_a_cluster_can_be_rehearsed_here(tmp_path: Path, example: Path) -> None:
    kinds = [document["kind"] for document in yaml.safe_load_all(example.read_text())]

    deployment = deployed(tmp_path, "-f", example, "--api-key", "key")

    left_out = [warning for warning in deployment.warnings if "for a cluster alone" in warning]
    assert len(deployment.replicas) >= kinds.count("DPModel")
    assert all(any(kind in warning for warning in left_out) for kind in kinds if kind != "DPModel")


def test_a_file_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"^--file: there is no DPModel in .*podmonitor.yaml; `dp-vllm export MODEL`"):
        deployed(tmp_path, "-f", EXAMPLES / "podmonitor.yaml")


def test_what_means_nothing_here_is_named(tmp_path: Path) -> None:
    engine = {"image": "v", "shmSize": "1Gi", "args": ["--seed", "1"]}

    (warning,) = served(
        tmp_path, dpmodel("a", cache={"hostPath": "/w"}, rollout={"paused": True}, engine=engine)
    ).warnings

    assert warning == (
        f"{tmp_path}/models.yaml:1: a: for a cluster alone, and left out here: "
        "spec.cache, spec.rollout, spec.engine.image, spec.engine.shmSize"
    )


def test_variables_stand_in_others_and_in_flags_as_in_a_pod(tmp_path: Path) -> None:
    env = [
        {"name": "A", "value": "1"},
        {"name": "B", "value": "$(A)2 $$(A) $(C)"},
        {"name": "T", "valueFrom": {"x": 1}},
    ]

    deployment = served(tmp_path, dpmodel("a", engine={"env": env, "args": ["--seed", "$(A)"]}), T="secret")

    variables = deployment.replicas[0].command.variables
    assert {name: variables[name] for name in "ABT"} == {"A": "1", "B": "12 $(A) $(C)", "T": "secret"}
    assert engine_words(deployment)[1:] == ["--seed", "1"]


KEYS = {"apiKeySecretRef": {"name": "keys"}}


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (
            [dpmodel("a", replicas=2, tensorParallelSize=2), dpmodel("b")],
            "needs dp*tp*pp = 2*2*1 (a) + 1*1*1 (b) = 5 GPUs, CUDA_VISIBLE_DEVICES has 4 (0,1,2,3)",
        ),
        ([dpmodel("a"), dpmodel("a")], "models.yaml:8: a: "),
        (
            [dpmodel("a"), dpmodel("b", servedModelName="org/a")],
            "models.yaml:8: b: clients would call it org/a, as a in ",
        ),
        ([dpmodel("a", **KEYS)], "models.yaml:1: a: spec.apiKeySecretRef: clients are to need a key, and Secrets"),
        (
            [dpmodel("a", adminApiKeySecretRef={"name": "keys"})],
            "models.yaml:1: a: spec.adminApiKeySecretRef: changes are to need an administrator's key, and Secrets",
        ),
        ([dpmodel("a", replicas=0)], "models.yaml:1: a: spec.replicas: 0 would serve nothing; leave it out"),
        (
            [dpmodel("a", engine={"env": [{"name": "T", "valueFrom": {"x": 1}}]})],
            "models.yaml:1: a: spec.engine.env[0]: the value of T is in a cluster; set T in the environment of this",
        ),
    ],
)
def test_what_cannot_be_served_together_is_refused(tmp_path: Path, models: list[dict[str, Any]], said: str) -> None:
    assert refused(tmp_path, *models, CUDA_VISIBLE_DEVICES="0,1,2,3").startswith(said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-tp", "2"), "-tp belongs to one model, and the models are in --file; use spec.tensorParallelSize"),
        (("-dp", "2"), "-dp belongs to one model, and the models are in --file; use spec.replicas"),
        (("-pcp", "2"), "-pcp belongs to one model, and the models are in --file; leave it out: a DPModel has no"),
        (("--gpu-groups", "0"), "--gpu-groups belongs to one model, and the models are in --file; leave it out: the"),
        (("--served-model-name", "x"), "--served-model-name belongs to one model, and the models are in --file; use s"),
        (("--max-model-len", "1"), "--max-model-len belongs to one model, and the models are in --file; write it into"),
        (("--of-tomorrow",), "--of-tomorrow belongs to one model, and the models are in --file; write it into spec.en"),
        (("org/m",), "MODEL: 'org/m' beside --file, whose objects name the models; leave it out, or if"),
        (("--model", "org/m"), "--model belongs to one model, and the models are in --file; use spec.model"),
    ],
)
def test_flags_of_one_model_are_refused_beside_a_file(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    # A flag without a value would take what follows: MODEL stands first.
    with pytest.raises(BadSettings) as error:
        deployed(tmp_path, *words, "-f", file(tmp_path, dpmodel("a")))
    assert str(error.value).startswith(said)


def test_so_are_those_in_a_config_file_and_the_endpoint_s_are_not(tmp_path: Path) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text("port: 9000\n")
    assert served(tmp_path, dpmodel("a"), words=("--config", str(config))).name == "9000"
    assert "--config" not in served(tmp_path, dpmodel("a"), words=("--config", str(config))).replicas[0].command.argv

    config.write_text("seed: 1\n")
    assert refused(tmp_path, dpmodel("a"), words=("--config", str(config))).startswith("seed in ")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xe4")
    for path, why in ((tmp_path, "Is a directory"), (tmp_path / "no", "No such file"), (tmp_path / "latin", "UTF-8")):
        with pytest.raises(BadSettings, match=rf"^--file: {path} .*{why}"):
            deployed(tmp_path, "-f", path)


def test_a_path_of_a_cluster_s_volume_is_not_handed_to_a_real_engine(tmp_path: Path) -> None:
    executable = tmp_path / "vllm"
    executable.touch(mode=0o755)
    path = file(tmp_path, dpmodel("a") | {"spec": {"model": "/cache/a"}})

    with pytest.raises(BadSettings, match=r"^spec.model: /cache/a is not on this machine; "):
        command_line.understand(["-f", str(path), "--engine", str(executable)], {"HOME": str(tmp_path)})


def test_a_model_without_accelerator_needs_an_engine_without(tmp_path: Path) -> None:
    executable = tmp_path / "vllm"
    executable.touch(mode=0o755)
    path = file(tmp_path, dpmodel("a", engine={"accelerator": "none"}))
    environ = {"HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": "0"}

    with pytest.raises(BadSettings, match=r"^org/a: spec.engine.accelerator is none, and vllm at .* needs GPUs"):
        command_line.understand(["-f", str(path), "--engine", str(executable)], environ)
    assert command_line.understand(
        ["-f", str(path), "--engine", str(executable)], environ | {"VLLM_TARGET_DEVICE": "cpu"}
    )
