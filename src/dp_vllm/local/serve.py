"""Opens what a run needs for as long as it lasts: its directory, its sockets, the terminal."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from dp_vllm.local import listen, run, terminal, words
from dp_vllm.local.crew import Crew
from dp_vllm.local.deployment import Deployment
from dp_vllm.local.narrator import Narrator
from dp_vllm.local.slurm.announce import announced
from dp_vllm.local.supervisor import Supervisor


def serve(deployment: Deployment) -> int:
    """Run the deployment until a signal ends it, or until nothing is left that could serve.

    Returns the exit status: 0 if it was ended by SIGTERM, SIGINT or SIGHUP, 1 if there was nothing to serve. Raises
    UserError, before anything is started, if the run's name or its address is taken.
    """
    with supervised(deployment, listen.listening(deployment.listen), Crew()) as supervisor:
        return asyncio.run(supervisor.run())


@contextlib.contextmanager
def supervised(
    deployment: Deployment, listening: AbstractContextManager[Sequence[socket.socket]], crew: Crew
) -> Iterator[Supervisor]:
    """The deployment's supervisor, ready to run before these sockets. Raises UserError as `serve` does."""
    with (
        run.claimed(deployment.directory, deployment.files),
        listening as sockets,
        terminal.Terminal(colours=terminal.wants_colours(os.environ)) as screen,
    ):
        narrator = Narrator(screen.say, screen.follow, screen.stand if screen.can_stand else None)
        if crew.gateway_is_elsewhere:
            screen.show(words.greeting_elsewhere(deployment))
            yield Supervisor(deployment, sockets, narrator, crew)
            return
        listens = listen.at(deployment.listen, sockets)
        if listens != deployment.listen:
            screen.say(words.port_is_taken(deployment.listen, listens))
        deployment = replace(deployment, listen=listens)
        screen.show(words.greeting(deployment))
        with announced(listens, deployment.directory):
            yield Supervisor(deployment, sockets, narrator, crew)
