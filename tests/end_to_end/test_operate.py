"""A run is changed from outside under load, and no client notices."""

import asyncio

import pytest
from deployments import serve
from end_to_end.load import load

from dp_vllm.local.operate import change

UNHURRIED = ("--sim-decode-step-seconds", "0.03")
"""A chat takes a second, so that there always are some to be lost."""


@pytest.mark.timeout(240)
async def test_replicas_come_are_rolled_rest_and_leave_without_a_failed_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(*UNHURRIED, replicas=2) as served:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(served.directory.path.parent.parent))
        async with load(served.url, clients=8) as clients:
            await asyncio.to_thread(change.scale.main, ["-dp", "4"], standalone_mode=False)
            assert served.serves(0, 1, 2, 3)
            before = served.pids()
            capsys.readouterr()
            await asyncio.to_thread(change.restart.main, ["--rolling"], standalone_mode=False)
            said = [line for line in capsys.readouterr().out.splitlines() if line.endswith(": serves")]
            assert said == [f"replica {number}: serves" for number in range(4)], "one after the other"
            after = served.pids()
            assert before["gateway"] == after["gateway"]
            assert not {before[name] for name in "0123"} & set(after.values())
            await asyncio.to_thread(change.drain.main, ["0"], standalone_mode=False)
            assert set(served.pids()) == {"gateway", "1", "2", "3"}
            await clients.until(count=8)
            await asyncio.to_thread(change.scale.main, ["-dp", "2"], standalone_mode=False)
            assert set(served.pids()) == {"gateway", "1"}
            await clients.until(count=8)
        assert all(chat.is_whole for chat in clients.chats), [chat for chat in clients.chats if not chat.is_whole]
        assert {chat.replica for chat in clients.chats} == set("0123")
        assert any(chat.stream for chat in clients.chats) and not all(chat.stream for chat in clients.chats)
