"""A whole run of simulated engines that hang."""

import json

import deployments
from programs import wait_until
from wire import Line, line, request

HUNG = b'{"kind": "hung"}'


def hang(served: deployments.Served, replica: str) -> str:
    """Make this replica's engine stand still; the address of its socket."""
    address = f"unix:{served.engine(replica).cmdline()[-1]}"
    with line(address) as opened:
        opened.send(request("POST", "/sim/fault", HUNG))
        opened.read_until(b"hung")
    return address


def ask(opened: Line) -> None:
    body = json.dumps({"prompt": "a", "max_tokens": 5}).encode()
    opened.send(request("POST", "/v1/completions", body, {"content-type": "application/json"}))


def test_replicas_that_hang_are_ended_one_after_another_with_their_stacks_and_started_again() -> None:
    with deployments.serve("--hang-timeout", "1", replicas=2) as served:
        program = served.program
        addresses = [hang(served, name) for name in "01"]
        with line(addresses[0]) as first, line(addresses[1]) as second:
            ask(first)
            ask(second)
            wait_until(lambda: program.output().count(" ended (it hung: it had requests (1)") == 2, program.output)
        assert "is not ended: no other replica would be left to serve" in program.output()
        served.await_ready(2, times=2)
        folders = list((served.directory.logs / "crashes").iterdir())
        assert len(folders) == 2
        for folder in folders:
            assert f"see {folder}/report.txt" in program.output()
            assert "dp_vllm/sim/program.py" in (folder / "stacks.txt").read_text()
            assert "Fatal Python error" not in (folder / "log").read_text()
