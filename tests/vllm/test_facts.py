"""What the package knows of the engine, held against the engine: its routes and its flags."""

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import programs
import pytest
import real_engine

from dp_vllm.engine import routes

pytestmark = pytest.mark.vllm

FLAGS_FILE = Path(routes.__file__).with_name("flags.json")
LOGGED_ROUTE = re.compile(r"Route: (?P<path>\S+), Methods: (?P<methods>.+)")


def served_routes(engine: programs.Program) -> Iterator[tuple[str, str]]:
    """Method and path of every route, from the engine's own description and from its log, which has some more."""
    with urllib.request.urlopen(engine.url + "/openapi.json", timeout=30) as response:
        document = json.load(response)
    for path, methods in document["paths"].items():
        yield from ((method.upper(), path) for method in methods)
    for route in LOGGED_ROUTE.finditer(engine.output()):
        yield from ((method, route["path"]) for method in route["methods"].split(", "))


@pytest.mark.parametrize(
    ("flags", "variables"),
    [
        ([], {}),
        (["--runner", "pooling"], {}),
        (
            ["--enable-lora", "--enable-scale-out", "--enable-tokenizer-info-endpoint"],
            {
                "VLLM_SERVER_DEV_MODE": "1",
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
                "VLLM_ENABLE_COHERE_API": "1",
            },
        ),
    ],
    ids=["default", "pooling", "development"],
)
def test_the_table_names_every_route_of_the_engine(flags: list[str], variables: dict[str, str], tmp_path: Path) -> None:
    with real_engine.engine(tmp_path, *flags, env=variables) as engine:
        served = set(served_routes(engine))
    assert len(served) > 15
    unknown = [
        f"{method} {path}"
        for method, path in sorted(served)
        if routes.route_of(method, re.sub(r"\{\w+\}", "x", path)) is routes.UNKNOWN
    ]
    assert not unknown, f"dp_vllm.engine.routes does not name {', '.join(unknown)}"


def test_the_table_of_flags_is_what_the_engines_parser_says() -> None:
    reader = Path(__file__).with_name("read_flags.py")
    with real_engine.environment() as variables:
        read = subprocess.run(
            [real_engine.python(), reader],
            env=variables | {"VLLM_LOGGING_LEVEL": "ERROR"},
            stdout=subprocess.PIPE,
            check=True,
        )
    assert json.loads(FLAGS_FILE.read_bytes()) == json.loads(read.stdout)
