"""Keeps a run on one revision of its model, and engines that start late from depending on the hub.

The first engine that is ready has all that its model needs in the cache. From then on each further start asks the hub
for one thing: is the model's revision still the commit that the run serves? If so the engine starts as the first did.
If it moved, or the hub does not say, the engine gets that commit out of the cache and asks nobody; if that turns out to
miss something, it asks the hub for that commit. Not always: vLLM then compiles the model once more (docs/adr/0015).

The one owner of which commits a run serves. It must not start anything.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from dp_vllm import hub
from dp_vllm.engine.causes import Cause
from dp_vllm.engine.hub import Repository, cache, kept, pinned
from dp_vllm.local import words
from dp_vllm.local.process import Exit, Program

ASK_SECONDS: Final = 5.0
"""How long the hub may take to say where each of the repositories is."""

_MISSES: Final = ("ModelNotCached", "ModelNotFound", "WeightsMissing")
"""Causes of an end that an engine without the hub may owe to that."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a run serves of the repositories that an engine fetches."""

    commits: tuple[str, ...]
    """In the order of the repositories, the model's first."""
    whole: bool = True
    """Nothing was found missing in the cache."""


class HubAccess:
    """Of all engines of a run."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._served: dict[tuple[Repository, ...], Served | None] = {}
        """None where the cache does not say."""

    def served(self, repositories: tuple[Repository, ...]) -> Served | None:
        """What they serve; None before anybody was ready."""
        return self._served.get(repositories)

    def note(self, repositories: tuple[Repository, ...], environ: Mapping[str, str]) -> None:
        """An engine is ready; the first one's commits are the run's."""
        if repositories not in self._served:
            commits = tuple(_read(kept(one, cache(environ))) for one in repositories)
            self._served[repositories] = Served(commits) if all(commits) else None

    def distrust(self, repositories: tuple[Repository, ...]) -> None:
        """Something was missing in the cache, so nobody is to rely on it alone."""
        if served := self._served.get(repositories):
            self._served[repositories] = replace(served, whole=False)

    def tell(self, name: str, why: str, model: str, served: Served) -> None:
        """Say that a replica is told which commit to serve."""
        self._say(words.pinned(name, why, model, served.commits[0], offline=served.whole))


class Access:
    """Of one program, life after life. What fetches nothing that is known has a run of none, and is left alone."""

    def __init__(self, run: HubAccess | None = None, name: str = "", repositories: tuple[Repository, ...] = ()) -> None:
        self._run = run if repositories else None
        self._name = name
        self._repositories = repositories
        self._without = False
        """Its present life cannot ask the hub."""

    @property
    def question(self) -> str:
        """What the next start has to wait for, in words; empty if nothing is to be asked."""
        return words.ASKING_HUB if self._run and self._run.served(self._repositories) else ""

    async def prepared(self, program: Program) -> Program:
        """What to start this time. Takes a while if the hub does."""
        self._without = False
        served = self._run.served(self._repositories) if self._run else None
        why = await asyncio.to_thread(self._reason, served, program.environment) if served else ""
        if not self._run or not served or not why:
            return program
        self._without = served.whole
        self._run.tell(self._name, why, self._repositories[0].name, served)
        further, variables = pinned(served.commits[0], offline=served.whole)
        return replace(program, argv=(*program.argv, *further), environment={**program.environment, **variables})

    async def note_ready(self, program: Program) -> None:
        """It serves, so all that it needs is in the cache."""
        if self._run:
            await asyncio.to_thread(self._run.note, self._repositories, program.environment)

    def excuses(self, how: Exit | None, cause: Cause | None) -> bool:
        """Whether a start that failed is no failure, because the hub was kept from it; the next one may ask it."""
        by_itself = how is not None and how.code is not None
        excused = self._without and by_itself and (cause is None or cause.reason in _MISSES)
        if self._run and excused:
            self._run.distrust(self._repositories)
        return excused

    def _reason(self, served: Served, environ: Mapping[str, str]) -> str:
        """Why the hub is not to be asked by the engine; empty if it may be."""
        for repository, commit in zip(self._repositories, served.commits, strict=True):
            found = hub.commit(repository.name, repository.revision, environ, ASK_SECONDS)
            if not found:
                return words.HUB_IS_SILENT
            if found != commit:
                return words.hub_has_moved(repository.name, found)
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        # A revision that is a commit has no file of its own.
        return path.name if len(path.name) == 40 and os.path.isdir(path.parents[1] / "snapshots" / path.name) else ""
