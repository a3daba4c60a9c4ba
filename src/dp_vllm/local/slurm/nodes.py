"""Runs one endpoint over all nodes of a job step: on the first node its gateway, on each the replicas of that node."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import replace
from typing import Any

import click

from dp_vllm.errors import UserError
from dp_vllm.local import listen
from dp_vllm.local.deployment import Deployment, Replica
from dp_vllm.local.serve import supervised
from dp_vllm.local.slurm.head import gathered
from dp_vllm.local.slurm.member import joined
from dp_vllm.local.slurm.seen import telling
from dp_vllm.local.slurm.spread import Spread


def serve(spread: Spread) -> int:
    """Run this node's part; the exit status, as of a run on one machine. Raises UserError."""
    try:
        return asyncio.run(_ended_by_term(_first(spread) if spread.job.is_first else _other(spread)))
    except asyncio.CancelledError:
        return 0  # told to end before anything was started


async def _ended_by_term(work: Coroutine[Any, Any, int]) -> int:
    """What is done until there is a supervisor, which listens to signals itself, leaves no file either."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


async def _first(spread: Spread) -> int:
    others = [node for node in spread.job.nodes if node != spread.job.node]
    with listen.listening(spread.listen) as sockets:
        click.echo(f"dp-vllm: waiting for {', '.join(others)}")
        async with gathered(spread.job, spread.logs, spread.seconds) as head:
            port = listen.at(spread.listen, sockets).port
            deployment = _on_first(spread.arranged(0, head.divide(spread.copies, spread.room, port)), head.secret)
            _warn(deployment)
            with supervised(deployment, contextlib.nullcontext(sockets), head) as supervisor:
                return await supervisor.run()


async def _other(spread: Spread) -> int:
    async with joined(spread.job, spread.logs, spread.room, spread.seconds) as member:
        share = member.share
        deployment = _on_other(spread, spread.arranged(share.first, share.count), member.secret, share.port)
        with _doors(member.host, len(deployment.replicas)) as sockets:
            addresses = (f"{member.host}:{each.getsockname()[1]}" for each in sockets)
            member.doors = {each.name: at for each, at in zip(deployment.replicas, addresses, strict=True)}
            with supervised(deployment, contextlib.nullcontext(sockets), member) as supervisor:
                async with telling(deployment.directory.admin_socket, member):
                    status = await supervisor.run()
        return 1 if member.is_lost else status


def _on_first(deployment: Deployment, secret: str) -> Deployment:
    path = deployment.directory.secret
    words = (*deployment.gateway.argv, "--replica-api-key-file", str(path))
    return replace(_of_several(deployment, secret), gateway=replace(deployment.gateway, argv=words))


def _on_other(spread: Spread, deployment: Deployment, secret: str, port: int) -> Deployment:
    there = replace(spread.listen, host=spread.job.nodes[0], port=port)
    return replace(_of_several(deployment, secret), listen=there)


def _of_several(deployment: Deployment, secret: str) -> Deployment:
    files = {**deployment.files, deployment.directory.secret: f"{secret}\n"}
    return replace(deployment, files=files, more=_no_more)


def _no_more(present: Sequence[Replica], count: int, model: str) -> tuple[Replica, ...]:
    raise UserError("a run over several nodes of a job cannot be scaled: start it again with another -dp")


def _warn(deployment: Deployment) -> None:
    for warning in deployment.warnings:
        click.echo(f"dp-vllm: warning: {warning}", err=True)


@contextlib.contextmanager
def _doors(host: str, count: int) -> Iterator[Sequence[socket.socket]]:
    """So many listening sockets, each on a port of its own, at the address that the first node knows."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server((host, 0), backlog=listen.BACKLOG)) for _ in range(count)]
        for each in sockets:
            each.set_inheritable(True)
        yield sockets
