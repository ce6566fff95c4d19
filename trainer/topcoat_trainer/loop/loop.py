"""The training loop: resume, step, watch, checkpoint, until done. Written once, for CPU, GPU and ranks.

Loss is the mean over the step's learnt tokens, whatever the micro-batches; nothing that is not finite is kept.
A step depends on (seed, step number, weights) alone, so a run that was killed ends bit for bit as one that was not.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from topcoat_trainer import batches, layers
from topcoat_trainer.errors import BudgetExceeded, Diverged, Ended, OutOfMemory, PeerLost, Stopped
from topcoat_trainer.loop import holding
from topcoat_trainer.loop import loss as losses
from topcoat_trainer.loop import optimizer as optimizers
from topcoat_trainer.loop.checkpoint import Checkpoint, Store
from topcoat_trainer.loop.course import Around, Course, State, Trained
from topcoat_trainer.loop.journal import Journal

logger = logging.getLogger(__name__)

# A run of one epoch is watched this often; longer ones at the end of each epoch.
WATCHES = 10


class NotFinite(Exception):
    """A number of this step is infinite or not a number."""


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, as torch says it on a GPU and on a CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


class Loop:
    """One training of one course."""

    def __init__(self, course: Course) -> None:
        self.course = course
        self.ranks = course.ranks
        self.order = course.settings.order(len(course.rows))
        self.untrained = holding.fingerprint(holding.trained(course.model))
        self.held = holding.held(course)
        self.parameters, self.optimizer = self.held.parameters, self.held.optimizer
        self.scaler = torch.amp.GradScaler(course.device.type, enabled=course.dtype is torch.float16)
        self.store = Store(
            course.folder / "checkpoints", identity=course.identity, keep=course.settings.checkpoints_kept
        )
        self.journal = Journal(course.folder / "metrics.jsonl")
        self.state = State(portion=course.portion)
        self.saved_at = -1
        self.resumed_from_step: int | None = None

    def resume(self) -> bool:
        """Goes to the newest valid checkpoint, or to the beginning. Whether steps are left to do."""
        self._stand(self._find() if self.ranks.first else None)
        return not self._done()

    def _find(self) -> Checkpoint | None:
        self.store.sweep()
        found = self.store.newest()
        if found is None:
            self.journal.rewind(0)
        else:
            self._load(found)
            self.store.adopt(self.state.best_step)
            self.state.resumed += 1
            self.resumed_from_step = found.step
            logger.info("resumed from the checkpoint of step %d", found.step)
        return found

    def _stand(self, found: Checkpoint | None) -> None:
        """All ranks stand where the first one stands."""
        self.held.stand(found)
        if self.ranks.alone:
            return
        told = self.ranks.from_first(
            {"state": self.state.as_json(), "from": self.resumed_from_step, "saved": self.saved_at}
        )
        if not self.ranks.first:
            self.state, self.resumed_from_step = State.of_json(told["state"]), told["from"]
            self.saved_at = told["saved"]
            if self.state.scaler:
                self.scaler.load_state_dict(self.state.scaler)

    def run(self, pause_at_step: int | None = None) -> Trained:
        """Trains to the end, or raises: Stopped, BudgetExceeded (both after a checkpoint), Diverged, OutOfMemory.

        With `pause_at_step` it trains so far at most, saves that, and takes the watched loss (NotFinite if it is none).
        """
        for note in filter(None, (*self.course.view.notes, self.course.split)):
            self._note(note)
        try:
            with self.course.stop.patient():
                self._said_at, self._said_tokens = time.monotonic(), self.state.tokens
                self.course.reporter.resumed(self.state.step / self.order.total_steps)
                while not (self._done() or self.state.step == pause_at_step):
                    self._leave_if_asked()
                    try:
                        self._step()
                    except NotFinite as error:
                        self._roll_back(error)
                paused = None if pause_at_step is None else self._paused()
        finally:
            self.journal.close()
        self.parameters = self.held.conclude()
        if paused is not None:
            return paused
        if not self.ranks.first:
            return self._trained()
        self._keep_the_best()
        if holding.fingerprint(self.parameters) == self.untrained:
            raise Diverged("the weights are as they were before the run: nothing was learnt")
        return self._trained()

    def _paused(self) -> Trained:
        """What there is at a pause, saved. Where training ended early, the loss is that of its best step."""
        self._save()
        taken = self.course.watched and not self.state.stopped_early
        return replace(self._trained(), watched_loss=self._watched_loss() if taken else self.state.best_loss)

    def _done(self) -> bool:
        return self.state.stopped_early or self.state.step >= self.order.total_steps

    def _load(self, checkpoint: Checkpoint) -> None:
        """All of it but the numbers, which `_stand` gives to all ranks."""
        self.state = State.of_json(dict(checkpoint.state))
        if self.state.scaler:
            self.scaler.load_state_dict(self.state.scaler)
        self.saved_at = self.state.step
        self.journal.rewind(self.state.step)

    def _note(self, note: str) -> None:
        logger.info("%s", note)
        if note not in self.state.notes:
            self.state.notes.append(note)

    # One step.

    def _step(self) -> None:
        began = time.monotonic()
        settings, state = self.course.settings, self.state
        chosen = self.order.of_step(state.step)
        if state.step + 1 < self.order.total_steps:
            self.course.soon(self.order.of_step(state.step + 1))
        loss = self._gradients(chosen)
        with self._nothing_counts_yet():
            loss = self.held.add_up(loss)
        self.scaler.unscale_(self.optimizer)
        limit = settings.max_grad_norm or math.inf
        norm = self.held.clipped(limit)
        self._demand(math.isfinite(loss), "the loss")
        # With FP16 an overflow is how the scaler finds its scale: it leaves the step out and halves the scale.
        overflow = self.scaler.is_enabled() and self.scaler.get_scale() > 1.0
        self._demand(math.isfinite(norm) or overflow, "a gradient")
        rate = optimizers.learning_rate(
            state.step,
            self.order.total_steps,
            peak=settings.learning_rate,
            warmup_ratio=settings.warmup_ratio,
            scheduler=settings.scheduler,
        )
        optimizers.set_rate(self.optimizer, rate)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.held.forget_gradients()
        self._demand(math.isfinite(self.held.norm()), "a trained weight")
        state.step += 1
        tokens = sum(len(self.course.rows[index].ids) for index in chosen)
        self._after_step(
            {
                "step": state.step,
                "epoch": round(self.order.epochs_done(state.step), 4),
                "loss": loss,
                "learningRate": rate,
                "gradNorm": norm if math.isfinite(norm) else None,
                "tokens": tokens,
            },
            began,
        )

    @contextlib.contextmanager
    def _nothing_counts_yet(self) -> Iterator[None]:
        """Inside it the next step has changed nothing: when another rank is lost, what there is can be saved, unless a
        part of it went with that rank.
        """
        try:
            yield
        except (PeerLost, Ended):
            if not self.held.split:
                self._save()
            raise

    def _demand(self, finite: bool, what: str) -> None:
        if not finite:
            raise NotFinite(f"{what} of step {self.state.step + 1} is not finite")

    def _gradients(self, chosen: tuple[int, ...]) -> float:
        """Gradients of the step's mean loss, in portions; smaller ones, for good, when memory runs out."""
        mine = self.ranks.share(chosen, [len(self.course.rows[index].ids) for index in chosen])
        while True:
            parts = self.state.portion.parts(self.course.rows, mine)
            try:
                with self.held.hearing():
                    passes = self.held.passes(parts, chosen[:1])
                    return self._accumulated(passes, batches.learnt_tokens(self.course.rows, chosen))
            except (RuntimeError, MemoryError) as error:
                largest = max((len(part) for part in parts), default=1)
                if not out_of_memory(error):
                    raise
                # Where layers are split, the others wait in the middle of this pass, and cannot begin again.
                if largest == 1 or self.held.split or not self.course.settings.reduce_micro_batch:
                    raise OutOfMemory(f"memory ran out with {largest} rows in a forward pass") from error
            # Here, not above: while the exception lives, so do the frames that hold the tensors.
            self._retreat(largest)

    def _accumulated(self, passes: list[holding.Pass], learnt: int) -> float:
        course = self.course
        layers.training_mode(course.model, course.boundary)
        torch.manual_seed(self.ranks.seed(course.settings.seed * 1_000_003 + self.state.step) % (1 << 63))
        self.held.forget_gradients()
        total = torch.zeros((), device=course.device)
        for part, counts in passes:
            loss = self._loss(course.around, course.view.batch(course.rows, part)) * counts / learnt
            torch.autograd.backward(self.scaler.scale(loss))
            total += loss.detach()
        return float(total)

    def _loss(self, around: Around, batch: batches.Batch) -> torch.Tensor:
        device, dtype = self.course.device, self.course.dtype
        with around(batch), torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            return losses.summed(self.course.view.logits(batch), batch.targets.to(device))

    def _retreat(self, largest: int) -> None:
        self.held.forget_gradients()
        gc.collect()
        if self.course.device.type == "cuda":
            torch.cuda.empty_cache()
        self.state.portion = self.state.portion.halved(largest)
        self._note(
            f"memory ran out with {largest} rows in a forward pass; {self.state.portion.rows} from step "
            f"{self.state.step + 1} on"
        )

    # After a step.

    def _after_step(self, line: dict[str, float | None], began: float) -> None:
        improved = False
        if self._watches():
            watched_loss = self._watched_loss()
            line["holdoutLoss"] = watched_loss
            improved = self._judge(watched_loss)
        seconds = time.monotonic() - began
        self.state.seconds += seconds
        self.state.tokens += int(line["tokens"] or 0)
        if self.ranks.first:
            self.journal.write({**line, "seconds": round(seconds, 4)})
        self._report(line)
        if self._done() or improved or self.state.step % self.course.settings.checkpoint_interval_steps == 0:
            self._save()

    def _watches(self) -> bool:
        if not self.course.watched:
            return False
        total, per_epoch = self.order.total_steps, self.order.steps_per_epoch
        interval = per_epoch if total > per_epoch else -(-total // WATCHES)
        return self.state.step == total or self.state.step % interval == 0

    def _watched_loss(self) -> float:
        """Mean loss per learnt token of the watched rows."""
        course = self.course
        course.model.train(mode=False)
        everything = range(len(course.watched))
        mine = self.ranks.share(everything, [len(row.ids) for row in course.watched])
        total = torch.zeros((), device=course.device)
        with torch.no_grad(), self.held.hearing():
            for part, counts in self.held.passes(self.state.portion.parts(course.watched, mine), [0]):
                total += self._loss(course.around_watched, course.view.batch(course.watched, part)) * counts
        mean = self.ranks.add_up((), float(total)) / max(1, batches.learnt_tokens(course.watched, everything))
        self._demand(math.isfinite(mean), "the held-out loss")
        return mean

    def _judge(self, watched_loss: float) -> bool:
        """Early stopping: whether this is the best step so far; sets `stopped_early` when patience is at its end."""
        settings, state = self.course.settings, self.state
        if settings.patience is None:
            return False
        if state.best_loss is None or watched_loss < state.best_loss - settings.min_delta:
            state.best_loss, state.best_step, state.worse = watched_loss, state.step, 0
            return True
        state.worse += 1
        state.stopped_early = state.worse >= settings.patience
        return False

    def _report(self, line: dict[str, float | None]) -> None:
        names = ("loss", "learningRate", "gradNorm", "holdoutLoss", "epoch")
        spent = max(1e-9, time.monotonic() - self._said_at)
        self.course.reporter.share(
            self.state.step / self.order.total_steps,
            metrics={name: value for name in names if (value := line.get(name)) is not None},
            step=(self.state.step, self.order.total_steps),
            tokens_per_second=(self.state.tokens - self._said_tokens) / spent,
        )

    def _save(self) -> None:
        """A checkpoint of this step, unless it has one."""
        if self.saved_at == self.state.step:
            return
        weights, moments = self.held.whole()
        self.saved_at = self.state.step
        if not self.ranks.first:
            return
        self.course.fence()
        self.journal.sync()
        self.state.scaler = self.scaler.state_dict()
        pinned = [self.state.best_step] if self.course.settings.patience is not None else []
        self.store.save(Checkpoint(self.state.step, weights, moments, self.state.as_json()), pinned)

    def _leave_if_asked(self) -> None:
        budget = self.course.settings.budget_seconds
        spent = budget is not None and self.state.seconds >= budget
        with self._nothing_counts_yet():
            asked, spent = self.ranks.any_of(self.course.stop.asked, spent)
        if asked:
            self._save()
            raise Stopped(f"stopped as asked; step {self.state.step} of {self.order.total_steps} is saved")
        if spent:
            self._save()
            raise BudgetExceeded(f"the budget is used up; step {self.state.step} of {self.order.total_steps} is saved")

    def _roll_back(self, error: NotFinite) -> None:
        """Once to the last checkpoint (all of which are finite): chance, a bad bit, may not strike twice."""
        found = None
        if self.ranks.first and not self.state.rolled_back:
            self.course.fence()
            found = self.store.newest()
        if not self.ranks.from_first({"found": found is not None})["found"]:
            self.ranks.agreed = True
            raise Diverged(str(error)) from error
        self.held.forget_gradients()
        if found is not None:
            self._load(found)
            self.state.rolled_back = True
            self._note(f"{error}: went back to the checkpoint of step {found.step}")
        self._stand(found)

    def _keep_the_best(self) -> None:
        if self.course.settings.patience is None or self.state.best_loss is None:
            return
        if self.state.best_step != self.state.step:
            best = self.store.load(self.state.best_step)
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(best.weights[name])
        if self.state.stopped_early:
            self._note(
                f"stopped early at step {self.state.step} of {self.order.total_steps}: the held-out loss no "
                f"longer fell; the weights are those of step {self.state.best_step}"
            )

    def _trained(self) -> Trained:
        state = self.state
        return Trained(
            steps=state.step,
            target_steps=state.step if state.stopped_early else self.order.total_steps,
            epochs=self.order.epochs_done(state.step),
            tokens=state.tokens,
            seconds=state.seconds,
            resumed=state.resumed,
            resumed_from_step=self.resumed_from_step,
            notes=tuple(state.notes),
            cache_note=state.cache_note,
        )
