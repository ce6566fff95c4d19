"""Brings about what the alias files ask for: copy, verify, check, load, probe; then, and only then, the alias moves.

What serves goes on serving while something new is brought in or refused. A version is let go when no alias wants it
and no request uses it. One loop looks at the files, another loads, so that a long load delays no alias.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import torch

from topcoat.api.report import VersionManifest
from topcoat.api.server import AgentState, EngineState, HeldAlias, HeldVersion, Proof, Push, ServerFile, WantedVersion
from topcoat_trainer.errors import TrainerError
from topcoat_trainer.serve.alias import Table, Tag
from topcoat_trainer.serve.aside import aside
from topcoat_trainer.serve.desired import Desired
from topcoat_trainer.serve.engine import Engine, EngineLost
from topcoat_trainer.serve.intake import Intake, Taken
from topcoat_trainer.serve.metric import Metrics
from topcoat_trainer.serve.traffic import Traffic

LOOK_SECONDS = 1.0
RECHECK_SECONDS = 30.0
RETRY_SECONDS = (2.0, 5.0, 15.0, 60.0)
PROBLEM_CHARACTERS = 1024
# fp32 on another machine rounds elsewhere, by 1e-5 and less. In half precision a log-probability of about -10 has
# steps of 0.06 (bfloat16) or 0.008 (float16), and kernels add up in another order; a wrong version differs by units.
TOLERANCE = {"FP32": 1e-4, "FP16": 5e-2, "BF16": 3e-1}
WORST = 1e9
"""Infinity, as JSON can say it."""
PRECISION = {torch.float32: "FP32", torch.float16: "FP16", torch.bfloat16: "BF16"}
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Record:
    """A version as it is here."""

    tag: Tag
    state: Literal["Loading", "Proved", "Refused"] = "Loading"
    proof: Proof | None = None
    manifest: VersionManifest | None = None
    raw: bool = False
    tries: int = 0
    again_at: float = 0.0
    since: int = 0


@dataclass(frozen=True, slots=True)
class Hands:
    """What the agent works with."""

    engine: Engine
    intake: Intake
    table: Table
    desired: Desired
    metrics: Metrics
    traffic: Traffic


class Agent:
    """One server's agent. All its methods run on the event loop."""

    def __init__(self, told: ServerFile, hands: Hands, precision: str) -> None:
        self._told = told
        self._hands = hands
        self._precision = precision
        self._records: dict[Tag, Record] = {}
        self._leases: Counter[Tag] = Counter()
        self._work = asyncio.Event()
        self._looked = False
        self._news_by = time.monotonic() + told.news_seconds
        self._complete = False
        self.boot_id = uuid.uuid4().hex

    async def run(self) -> None:
        """Looks and loads until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            group.create_task(self._bring())
            group.create_task(self._recheck())
            group.create_task(self._mourn())

    async def _mourn(self) -> None:
        """Whenever the engine has lost what it held, this is a new life: nothing is proved, and all is loaded again."""
        while True:
            await self._hands.engine.lost()
            self.boot_id = uuid.uuid4().hex
            self._complete = False
            for tag in [tag for tag, record in self._records.items() if record.state == "Proved"]:
                del self._records[tag]
                self._hands.metrics.unloaded(tag.name, tag.digest)
            log.error("the engine has lost all versions; they are loaded and proved again")
            self._settle(fresh=True)

    async def _watch(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """One look at the mounted files."""
        change = self._hands.desired.look()
        for alias in change.gone:
            log.info("alias %s is gone from the files", alias)
            self._hands.table.forget(alias)
            self._hands.traffic.drop(alias)
        for file in change.written:
            self._hands.table.follow(file)
        self._looked = True
        self._settle(fresh=bool(change.written or change.gone))

    def pushed(self, push: Push) -> None:
        """The same by another way, sooner. Whoever moves aliases has now said all that is new."""
        self._news_by = 0.0
        newer = [self._hands.table.follow(file) for file in push.aliases]
        for alias in push.dropped:
            self._hands.table.drop(alias)
            self._hands.traffic.drop(alias)
        self._settle(fresh=any(newer) or bool(push.dropped))

    def _settle(self, *, fresh: bool) -> None:
        for entry in self._hands.table.settle(self.proved):
            self._hands.traffic.follow(entry.file)
            shares = ", ".join(f"{tag.name} {weight} %" for tag, weight in entry.shares) or "nobody"
            log.info("alias %s, generation %d: %s", entry.file.alias, entry.file.generation, shares)
        current = self._looked and time.monotonic() >= self._news_by
        self._complete = self._complete or (current and self._settled())
        if fresh:  # what was refused may have been mended
            for record in self._records.values():
                record.again_at = 0.0
        self._work.set()

    def _settled(self) -> bool:
        """Whether every alias answers as it is asked to, by versions that are here."""
        answering = [tag for entry in self._hands.table.in_force() for tag, _ in entry.shares]
        settled = self._hands.table.settled() and not self._hands.desired.broken
        return settled and all(map(self.proved, answering))

    async def _bring(self) -> None:
        while True:
            self._work.clear()
            await self._let_go()
            wanted = self._next()
            if wanted is not None:
                await self._take(*wanted)
                self._settle(fresh=False)
                continue
            with suppress(TimeoutError):
                await asyncio.wait_for(self._work.wait(), LOOK_SECONDS)

    def _next(self) -> tuple[Tag, WantedVersion] | None:
        """The first version that is wanted and not here. One that was refused is tried again later and later."""
        loaded = sum(record.state == "Proved" for record in self._records.values())
        for tag, wanted in self._hands.table.wanted().items():
            record = self._records.get(tag)
            if record is not None and (record.state != "Refused" or time.monotonic() < record.again_at):
                continue
            if loaded < self._told.max_adapters:
                return tag, wanted
            self._refuse(tag, f"the server holds {loaded} versions, as many as it may (maxAdapters)")
        return None

    async def _take(self, tag: Tag, wanted: WantedVersion) -> None:
        record = self._records.setdefault(tag, Record(tag))
        record.state = "Loading"
        started = time.monotonic()
        taken: Taken | None = None
        try:
            taken = await aside(lambda: self._hands.intake.take(wanted))
            record.manifest, record.raw = taken.manifest, taken.raw
            await self._hands.engine.load(tag.key, taken.folder)
            await self._prove(record, taken.manifest)
        except EngineLost:  # this says nothing of the version: it is loaded once the engine is back
            self._records.pop(tag, None)
        except TrainerError as error:
            place = error.where.replace(str(taken.folder), wanted.path) if taken else error.where
            self._refuse(tag, f"{place}: {error.message}" if place else error.message)
        except Exception as error:  # noqa: BLE001 (whatever a version does, the server goes on)
            self._refuse(tag, f"{wanted.path}: it cannot be loaded ({type(error).__name__})")
        finally:
            if taken is not None:
                taken.close()
        if self.proved(tag):
            self._hands.metrics.loaded(tag.name, tag.digest)
            log.info("%s %s proved after %.1f s", tag.name, tag.digest, time.monotonic() - started)
        else:
            await self._hands.engine.unload(tag.key)

    async def _recheck(self) -> None:
        """While a version is tried, its probes are replayed among the clients' requests: load must not change it."""
        while True:
            await asyncio.sleep(RECHECK_SECONDS)
            for tag in [tag for entry in self._hands.table.in_force() if entry.file.watched for tag, _ in entry.shares]:
                await self.recheck(tag)

    async def recheck(self, tag: Tag) -> None:
        """A version that drifts goes on answering here; whoever asks for the state decides."""
        record = self._records.get(tag)
        if record is None or record.manifest is None or record.state != "Proved":
            return
        try:
            with self.lease(tag):
                difference = await self._hands.engine.probe(tag.key, record.manifest.probes)
        except EngineLost:
            return
        except Exception as error:  # noqa: BLE001 (a replay that fails must not end the server)
            log.error("%s: its probes cannot be replayed (%s)", tag.name, type(error).__name__)  # noqa: TRY400
            difference = WORST
        record.proof = self._proof(record.manifest, difference)

    def _proof(self, manifest: VersionManifest, difference: float) -> Proof:
        allowed = max(TOLERANCE.get(manifest.lineage.precision, 0.0), TOLERANCE[self._precision])
        if difference <= allowed:
            return Proof(ok=True, max_abs_diff=difference, at=_now())
        words = f"the golden probes differ by {difference:.3g}, allowed is {allowed:g}: it answers as another model"
        shown = min(WORST, difference)  # in this order: not a number is not less
        return Proof(ok=False, max_abs_diff=shown, at=_now(), problem=words)

    async def _prove(self, record: Record, manifest: VersionManifest) -> None:
        """Replays the golden probes; only what answers as it was sealed is proved."""
        difference = await self._hands.engine.probe(record.tag.key, manifest.probes)
        proof = self._proof(manifest, difference)
        if proof.ok:
            record.state, record.tries, record.proof = "Proved", 0, proof
            return
        self._refuse(record.tag, proof.problem, difference)

    def _refuse(self, tag: Tag, words: str, difference: float = 0.0) -> None:
        record = self._records.setdefault(tag, Record(tag))
        known = record.proof.problem if record.proof else ""
        problem = words[:PROBLEM_CHARACTERS]
        shown = min(difference, WORST)
        record.state = "Refused"
        record.proof = Proof(ok=False, max_abs_diff=shown, at=_now(), problem=problem)
        record.again_at = time.monotonic() + RETRY_SECONDS[min(record.tries, len(RETRY_SECONDS) - 1)]
        record.tries += 1
        if problem != known:
            log.error("%s %s refused: %s", tag.name, tag.digest, problem)

    async def _let_go(self) -> None:
        """Unloads what no alias wants and no request uses."""
        wanted = self._hands.table.wanted()
        for tag in [tag for tag in self._records if tag not in wanted and not self._leases[tag]]:
            record = self._records.pop(tag)
            if record.state == "Proved":
                await self._hands.engine.unload(tag.key)
                self._hands.metrics.unloaded(tag.name, tag.digest)
                log.info("%s %s unloaded", tag.name, tag.digest)

    def proved(self, tag: Tag) -> bool:
        record = self._records.get(tag)
        return record is not None and record.state == "Proved"

    def coming(self, model: str) -> bool:
        """Whether a version of this name is wanted, and neither proved nor refused yet."""
        found = [self._records.get(tag) for tag in self._hands.table.wanted() if tag.name == model]
        return any(record is None or record.state == "Loading" for record in found)

    def record(self, tag: Tag) -> Record:
        return self._records[tag]

    @contextmanager
    def lease(self, tag: Tag | None) -> Iterator[None]:
        """Inside it the version stays loaded."""
        if tag is None:
            yield
            return
        self._leases[tag] += 1
        try:
            yield
        finally:
            self._leases[tag] -= 1
            if not self._leases[tag]:
                del self._leases[tag]
                self._work.set()

    def leased(self) -> list[str]:
        return [tag.name for tag in self._leases]

    @property
    def complete(self) -> bool:
        """Whether, since this process started, everything that the alias files name was once proved and in force.

        It stays so: a version that cannot be loaded later must not take the pod, and all else it serves, away.
        """
        return self._complete

    def state(self) -> AgentState:
        engine = self._hands.engine
        held = tuple(
            HeldVersion(job=t.job, version=t.version, digest=t.digest, state=record.state, probe=record.proof)
            for t, record in sorted(self._records.items(), key=lambda pair: pair[0].key)
        )
        return AgentState(
            ready=self._complete and self._settled(),
            base_model_digest=self._told.base_model_digest,
            versions=held,
            aliases=tuple(self._with_traffic(held) for held in self._hands.table.state()),
            engine=EngineState(
                boot_id=self.boot_id, name=engine.name, version=engine.version, without_base=engine.without_base()
            ),
        )

    def _with_traffic(self, held: HeldAlias) -> HeldAlias:
        return held.model_copy(update={"traffic": self._hands.traffic.of(held.alias)})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
