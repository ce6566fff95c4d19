"""Several processes on one run: how they find each other, what they add up, and how all of them end together.

A store of words (TCP) says who is there, who failed and how it ended; collectives carry numbers only, and no pickle.
Alone (`Ranks()`) everything here does nothing.
"""

from __future__ import annotations

import importlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from topcoat.api.report import Outcome, Termination
from topcoat_trainer.errors import Ended, PeerLost, TrainerError

if TYPE_CHECKING:
    import torch

# Pods of one run may start minutes apart: another one may still wait for its node.
GATHERING_SECONDS = 900.0
CONNECT_SECONDS = 5.0
# Longer than any collective waits for a rank that works: whoever is lost is noticed by its pulse, not by this.
COLLECTIVE_SECONDS = 6 * 3600
PULSE_SECONDS = 2.0
# How long a rank that heard of the end may take to end by itself.
GRACE_SECONDS = 15.0
BUCKET_NUMBERS = 1 << 24
SECOND_SEED = 7_919


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


@dataclass(slots=True)
class Ranks:
    """One process among those of its run. Rank 0 is the first: it alone writes, judges and seals."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    store: Any = None
    apart: bool = False
    """Whether the ranks no longer compute together."""
    agreed: bool = False
    """Whether all ranks end for a reason that all of them know: the first one says it."""
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.size == 1

    @property
    def device(self) -> str:
        """Each local rank has a GPU of its own, where there are any."""
        import torch

        if self.alone or not torch.cuda.is_available():
            return "auto"
        if self.local_rank >= torch.cuda.device_count():
            found = torch.cuda.device_count()
            raise TrainerError(
                f"process {self.local_rank + 1} of this pod has no GPU of its own; there are {found}",
                hint="ask for as many GPUs as processes",
            )
        torch.cuda.set_device(self.local_rank)
        return f"cuda:{self.local_rank}"

    def seed(self, seed: int) -> int:
        """The first rank's chance is that of a run alone; the others' differs, as their rows do."""
        return seed + self.rank * SECOND_SEED * (1 << 32)

    def share(self, chosen: Sequence[int], lengths: Sequence[int]) -> tuple[int, ...]:
        """The rank's part of a step's rows: dealt out by length, so that all ranks have about as much to do."""
        if self.alone:
            return tuple(chosen)
        dealt = sorted(range(len(chosen)), key=lambda place: -lengths[place])[self.rank :: self.size]
        return tuple(chosen[place] for place in sorted(dealt))

    # Numbers.

    def add_up(self, tensors: Iterable[torch.Tensor], number: float) -> float:
        """Sums the tensors (in place) and a number over all ranks; all get the very same bits."""
        if self.alone:
            return number
        import torch
        import torch.distributed as dist

        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.detach().reshape(-1).float() for tensor in bucket])
            self._together(partial(dist.all_reduce, flat))
            for tensor, part in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
                tensor.detach().copy_(part.view_as(tensor))
        total = torch.tensor([number], dtype=torch.float64)
        self._together(partial(dist.all_reduce, total))
        return float(total)

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag as true as it is on any rank: so all ranks stop at one step."""
        if self.alone:
            return flags
        import torch
        import torch.distributed as dist

        votes = torch.tensor([float(flag) for flag in flags])
        self._together(partial(dist.all_reduce, votes, op=dist.ReduceOp.MAX))
        self.agreed = self.agreed or bool(votes.any())
        return tuple(bool(vote) for vote in votes)

    def each(self, number: float) -> list[float]:
        """Every rank's number, by rank, to seven digits."""
        import torch

        found = torch.zeros(self.size)
        found[self.rank] = number
        self.add_up([found], 0.0)
        return [float(one) for one in found]

    def from_first(self, word: dict[str, Any]) -> dict[str, Any]:
        """What the first rank says, as JSON."""
        return self._from(0, word)

    def any_word(self, word: str) -> str:
        """The same for all: the word of the first rank that has one; empty if none has."""
        return next((said for rank in range(self.size) if (said := self._from(rank, {"": word})[""])), "")

    def _from(self, rank: int, word: dict[str, Any]) -> dict[str, Any]:
        if self.alone:
            return word
        import torch

        data = torch.frombuffer(bytearray(json.dumps(word).encode()), dtype=torch.uint8).view(1, -1)
        told = self.copy_from(rank, data if self.rank == rank else None)
        said: dict[str, Any] = {} if told is None else json.loads(bytes(told.numpy()))
        return said

    def copy_from_first(self, tensors: Iterable[torch.Tensor]) -> None:
        """The first rank's numbers, in place."""
        import torch.distributed as dist

        if not self.alone:
            for tensor in tensors:
                self._together(partial(dist.broadcast, tensor.detach(), 0))

    def copy_from(self, rank: int, states: torch.Tensor | None) -> torch.Tensor | None:
        """A matrix that one rank has, for all. Alone: as it is."""
        if self.alone:
            return states
        import torch
        import torch.distributed as dist

        kinds = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8)
        form = torch.tensor([0, 0, 0] if states is None else [*states.shape, kinds.index(states.dtype)])
        self._together(partial(dist.broadcast, form, rank))
        lines, width, kind = form.tolist()
        data = torch.empty(lines, width, dtype=kinds[kind]) if states is None else states.cpu().contiguous()
        self._together(partial(dist.broadcast, data.view(torch.uint8), rank))
        return data

    def demand_same(self, digest: str) -> None:
        """Ends a run whose ranks hold different weights: one of them computes wrongly."""
        if self.alone:
            return
        import torch
        import torch.distributed as dist

        mine = torch.tensor([int(digest[:15], 16), -int(digest[:15], 16)])
        self._together(partial(dist.all_reduce, mine, op=dist.ReduceOp.MAX))
        if int(mine[0]) != -int(mine[1]):
            raise TrainerError("the ranks of the run hold different weights", hint="look for a broken GPU or memory")

    def _together(self, collective: Callable[[], object]) -> None:
        try:
            collective()
        except RuntimeError as error:
            raise self.why(PeerLost("another process of this run was lost")) from error

    # Words.

    def say(self, name: str, word: str) -> None:
        if not self.alone:
            self.store.set(name, word)

    def hear(self, name: str) -> str:
        """Waits for a word of the first rank; the end, where that comes first, is raised."""
        while not self._asked(partial(self.store.check, [name])):
            word = self.end_or_none()
            if word is not None:
                raise Ended(word)
            time.sleep(0.1)
        return str(self._asked(partial(self.store.get, name)).decode())

    def part(self) -> None:
        """From here on the first rank works alone, and the others only wait for its end."""
        self.apart = True
        self.say("apart", "1")

    def wait_for_end(self) -> Termination:
        """How it ended, from the first rank."""
        self.apart = True
        while (word := self.end_or_none()) is None:
            time.sleep(0.5)
        return word

    def end_or_none(self) -> Termination | None:
        """How the run ended, if it did: the first rank's last word, or that of a rank that failed."""
        for name in ("end", "failed"):
            if self._asked(partial(self.store.check, [name])):
                return Termination.model_validate_json(self._asked(partial(self.store.get, name)))
        return None

    def _asked(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except RuntimeError as error:
            raise PeerLost("the first process of this run was lost") from error

    def why(self, error: TrainerError) -> TrainerError:
        """The reason behind a lost peer: what it said before it went, if it said anything."""
        deadline = time.monotonic() + PULSE_SECONDS
        while time.monotonic() < deadline:
            try:
                word = self.end_or_none()
            except PeerLost as lost:
                return lost
            if word is not None:
                return Ended(word)
            time.sleep(0.1)
        return error

    def fail(self, word: Termination) -> Termination:
        """Tells the others that this rank failed. Returns what counts: the first failure of all."""
        if self.alone or (self.apart and not self.first):
            return word
        try:
            told = self.store.compare_set("failed", "", _spelled(word))
            return Termination.model_validate_json(told)
        except (RuntimeError, ValueError):
            return word

    def concluded(self, word: Termination) -> Termination:
        """The word that counts for all ranks, told to all."""
        if word.outcome is Outcome.FAILED:
            word = self.fail(word)
        self.end(word)
        return word

    def end(self, word: Termination) -> None:
        """Rank 0 says how the run ended, and keeps the store until the others have heard it. They say goodbye."""
        self.ended.set()
        if self.alone:
            return
        try:
            if self.first:
                self.store.set("end", _spelled(word))
            self._close()
            self.store.add("gone", 1)
            # After a failure some may be gone without a goodbye; the others hear it with their next pulse.
            patience = 3 * PULSE_SECONDS if word.outcome is Outcome.FAILED else GRACE_SECONDS
            deadline = time.monotonic() + patience
            while self.first and self.store.add("gone", 0) < self.size and time.monotonic() < deadline:
                time.sleep(0.05)
        except RuntimeError:
            return

    def _close(self) -> None:
        """A gloo group is closed at once, so that a rank that waits in it learns of it; NCCL's could hang here."""
        import torch.distributed as dist

        if dist.is_initialized() and dist.get_backend() == "gloo":
            dist.destroy_process_group()


def _spelled(word: Termination) -> str:
    return json.dumps(word.as_json())


def _buckets(tensors: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        bucket.append(tensor)
        if sum(member.numel() for member in bucket) >= BUCKET_NUMBERS:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


@contextmanager
def gathered(check: Callable[[], None]) -> Iterator[Ranks]:
    """All ranks of this run, found; `check` raises where a signal asks to stop. Alone there is nobody to look for."""
    if size() == 1:
        yield Ranks()
        return
    found = Ranks(rank(), size(), int(os.environ.get("LOCAL_RANK", "0")))
    found.store = _joined(found, check)
    import torch

    dist: Any = importlib.import_module("torch.distributed")
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(
            backend,
            store=dist.PrefixStore("numbers", found.store),
            rank=found.rank,
            world_size=found.size,
            timeout=timedelta(seconds=COLLECTIVE_SECONDS),
        )
    except RuntimeError as error:
        raise PeerLost(
            "the processes of this run could not be connected", hint="allow traffic between its pods"
        ) from error
    yield found


def _joined(found: Ranks, check: Callable[[], None]) -> Any:
    """The store, once all ranks are there. A rank that comes into a group that began without it looks for the next."""
    deadline = time.monotonic() + GATHERING_SECONDS
    while time.monotonic() < deadline:
        check()
        try:
            store = _store(found)
            if store.add(f"joined/{found.rank}", 1) == 1:
                while not store.check([f"joined/{other}" for other in range(found.size)]):
                    check()
                    if time.monotonic() > deadline:
                        break
                    time.sleep(0.1)
                else:
                    store.set_timeout(timedelta(seconds=COLLECTIVE_SECONDS))
                    return store
            elif store.check(["apart"]):
                found.store = store
                raise Ended(found.wait_for_end())
        except RuntimeError:
            time.sleep(0.5)
        time.sleep(0.5)
    raise PeerLost(f"not all {found.size} processes of this run came within {GATHERING_SECONDS:.0f} seconds")


def _store(found: Ranks) -> Any:
    """The first rank keeps the store, unless torchrun's agent does."""
    dist: Any = importlib.import_module("torch.distributed")
    host, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), int(os.environ["MASTER_PORT"])
    agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = dist.TCPStore(
        host,
        port,
        found.size,
        is_master=found.first and not agents,
        timeout=timedelta(seconds=CONNECT_SECONDS),
        wait_for_workers=False,
    )
    return dist.PrefixStore("topcoat", store) if agents else store
