"""The GRIT training loop: every objective in every step, checkpoints that resume to the bit, the best weights kept."""

from __future__ import annotations

import json
import logging
import math
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from grit_integrations.errors import ConfigError, TrainingDivergedError
from grit_integrations.progress import progress_bar
from grit_integrations.training import checkpoints, setup
from grit_integrations.training.checkpoints import RunProgress, newest_checkpoint, trained_tensors
from grit_integrations.training.config import TrainConfig
from grit_integrations.training.distribution import Distribution
from grit_integrations.training.export import (
    PROJECTION,
    export_model,
    grit_config,
    model_card,
    write_atomically,
    write_grit_config,
)
from grit_integrations.training.lora import merged, rounded, save_adapter
from grit_integrations.training.memory import keep_freed_memory
from grit_integrations.training.monitor import Monitor
from grit_integrations.training.objectives.objective import Context, Objective
from grit_integrations.training.plots import plot_metrics
from grit_integrations.training.rows.lengths import warn_of_cuts
from grit_integrations.training.rows.stream_files import open_data
from grit_integrations.training.schedule import fall, warmth
from grit_integrations.training.start.choice import make_start

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended."""

    steps: int
    finished: bool  # False when it was interrupted; the same call goes on from there
    minutes: float  # of training, over all resumed parts
    best: dict[str, Any]  # the evaluation that the exported weights had
    model: Path  # directory that AutoModelForCausalLM loads


def train(config: TrainConfig, *, resume: bool = True, progress: bool | None = None) -> TrainResult:
    """Train a model with all streams of a recipe and export the best weights.

    Ctrl-C ends the current step, writes a checkpoint and returns; calling again goes on from the newest checkpoint
    with the same data order, optimiser and random state. Under `accelerate launch` every process calls this.

    Args:
        config: the recipe, see `load_config`.
        resume: continue from the newest checkpoint when there is one; otherwise start over, and remove what an
            earlier run left in `config.output`.
        progress: show a bar; by default when standard error is a terminal.

    Raises:
        ConfigError: the recipe cannot be run, or is not the one that the checkpoint was made with.
        DataError: a data file is wrong (names file and line), or has changed since the checkpoint.
        TrainingDivergedError: a loss is not finite; names step and stream.
        OSError: a checkpoint could not be written; the one before it stays.
    """
    distribution = Distribution(config.device)
    if distribution.device.type == "cpu":
        keep_freed_memory()
    with _threads(config.threads):
        if not resume and distribution.writes:
            _remove_leftovers(Path(config.output))
        distribution.wait()
        run = Run(config, distribution, checkpoint=newest_checkpoint(Path(config.output)))
        shown = progress if distribution.writes else False
        bar = progress_bar(total=config.steps, done=run.progress.step, desc="Training", unit="step", shown=shown)
        with _interruptible() as stop, bar:
            finished = run.steps(stop, bar)
        return run.result(finished=finished)


class Run:
    """One training run in memory.

    Args:
        config: the recipe.
        distribution: the processes; found out by default.
        checkpoint: where to go on; from the beginning by default.
    """

    def __init__(
        self, config: TrainConfig, distribution: Distribution | None = None, *, checkpoint: Path | None = None
    ) -> None:
        self.config = config
        self.out = Path(config.output)
        self.out.mkdir(parents=True, exist_ok=True)
        self.distribution = distribution or Distribution(config.device)
        if self.distribution.sharded and (config.bag_steps or config.lora):
            raise ConfigError("bag_steps and [lora] do not work with FSDP. Remove them, or launch without FSDP.")
        files = open_data(config)
        self._same = checkpoints.identity(config, files.contents(), self.distribution.processes.count)
        self.progress = checkpoints.read_progress(checkpoint, self._same) if checkpoint else RunProgress()
        with self.distribution.first():
            self.encoder = setup.make_encoder(config, files, self.out / "tokenizer")
        dtype = setup.choose_precision(config.precision, self.distribution.device)
        self.start = make_start(config, self.encoder, files)
        self.module = setup.make_module(config, self.start, dtype)
        if checkpoint is not None:
            checkpoints.load_tensors(checkpoint, self.module, adapters=config.lora is not None)
        window = self.model.config.max_position_embeddings
        context = Context(config, self.encoder, window, self.distribution.processes)
        self.objectives = setup.make_objectives(context, files)
        self.bag = setup.make_bag(context, files)
        self._monitor = Monitor(config, self.encoder)
        self._wrapped, self.optimiser = self.distribution.prepare(
            self.module, setup.make_optimiser(self.module, config.optimiser)
        )
        if checkpoint is not None:
            self._resume(checkpoint)
        elif self.distribution.writes:
            warn_of_cuts(config, files.pairs, files.texts, self.encoder)

    @property
    def model(self) -> Any:
        """The transformers model inside the module."""
        return self.module.lm

    def _resume(self, checkpoint: Path) -> None:
        self.distribution.load_optimiser(self._wrapped, self.optimiser, checkpoints.read_optimiser(checkpoint))
        checkpoints.restore_random(checkpoint)
        for objective in self._every_objective():
            if objective.name in self.progress.positions:
                objective.seek(self.progress.positions[objective.name])
        if self.distribution.writes:
            _forget_later_metrics(self.out / "metrics.jsonl", self.progress.step)
        logger.info("Resumed after step %d", self.progress.step)

    def _every_objective(self) -> list[Objective[Any]]:
        return [*self.objectives, *([self.bag] if self.bag else [])]

    def steps(self, stop: threading.Event, bar: Any) -> bool:
        """Train to the end of the schedule; return False when `stop` was set before it."""
        if not self.progress.first:
            self._export(self._tensors(), self.out / "start")
            self.progress.first, _ = self._evaluated()
        while self._share() < 1.0:
            record = self.step()
            self._log(record)
            bar.update(1)
            bar.set_postfix_str(_shown(record))
            stopped, self.progress.seconds = self.distribution.agree(stop.is_set(), self.progress.seconds)
            ended, step, better = self._share() >= 1.0, self.progress.step, False
            if ended or step % self.config.evaluate_every == 0:
                _, better = self._evaluated()
            if ended or stopped or better or step % self.config.checkpoint_every == 0:
                self._save()
            if stopped and not ended:
                logger.info("Interrupted after step %d; the checkpoint is written", step)
                return False
        return True

    def _share(self) -> float:
        """Return how much of the schedule has passed, by steps or by minutes, whichever is further."""
        spent = self.progress.step / self.config.steps
        if self.config.minutes is not None:
            spent = max(spent, self.progress.seconds / 60 / self.config.minutes)
        return spent

    def step(self) -> dict[str, Any]:
        """Take one optimiser step over the objectives and return what to log."""
        began = time.monotonic()
        if self.progress.step == self.config.bag_steps:
            self.start.wake(self.model)
        active = self._active()
        self._set_rates()
        self.optimiser.zero_grad(set_to_none=True)
        figures: dict[str, float] = {}
        turns = [objective for _ in range(self.config.accumulate) for objective in active]
        for turn, objective in enumerate(turns, start=1):
            with self.distribution.unsynchronised(self._wrapped, wanted=turn < len(turns)):
                for name, value in self._backward(objective).items():
                    figures[name] = figures.get(name, 0.0) + value / self.config.accumulate
        norm = self.distribution.clip(self._wrapped, self.config.optimiser.clip)
        self._check(norm, "gradient of all streams")
        self.optimiser.step()
        self.progress.step += 1
        self.progress.seconds += time.monotonic() - began
        record = {"step": self.progress.step, **figures}
        return {**record, "gradient": round(norm, 4), "seconds": round(self.progress.seconds, 1)}

    def _active(self) -> list[Objective[Any]]:
        step = self.progress.step - self.config.bag_steps
        if self.bag and step < 0:
            return [self.bag]
        return [objective for objective in self.objectives if step % objective.every == 0]

    def _set_rates(self) -> None:
        settings, step = self.config.optimiser, self.progress.step
        bag = step < self.config.bag_steps
        warm = warmth(settings, step if bag else step - self.config.bag_steps)
        scale = warm * fall(settings, self._share())
        for group in self.optimiser.param_groups:
            group["lr"] = warm * self.config.bag_rate if bag else group["peak"] * scale

    def _backward(self, objective: Objective[Any]) -> dict[str, float]:
        """Add the gradients of an objective's next batch; return its loss and figures by their names in the log."""
        batch = objective.next_batch()
        loss = self._wrapped(lambda module: objective.loss(module, batch))
        value = self.distribution.mean(loss.value.item())
        self._check(value, f"{objective.name} stream")
        torch.autograd.backward(loss.value * (objective.weight / self.config.accumulate))
        figures = {f"{objective.name}.{name}": self.distribution.mean(each) for name, each in loss.figures.items()}
        return {objective.name: value, **figures}

    def _check(self, value: float, what: str) -> None:
        if not math.isfinite(value):
            raise TrainingDivergedError(
                f"Step {self.progress.step + 1}: the {what} is {value}. Lower the learning rates, or resume from "
                f"the checkpoint before it in {self.out / 'checkpoints'}."
            )

    def measure(self) -> dict[str, Any]:
        """Return what the monitor finds."""
        with torch.no_grad():  # here already: with gradients DDP would await a backward pass
            found: dict[str, Any] = self._wrapped(self._monitor.measure)
        return {"step": self.progress.step, **found}

    def _evaluated(self) -> tuple[dict[str, Any], bool]:
        """Evaluate, log, keep the weights if they are the best so far; return what was found and whether they are.

        Best are, among the weights whose mean nDCG@10 is within `retrieval_tolerance` of the highest, those with the
        lowest loss on held-out responses. Without evaluation sets the last are the best.
        """
        found = self.measure()
        self._log({"evaluation": found})
        logger.info("Step %d: %s", found["step"], {key: value for key, value in found.items() if key != "sets"})
        progress, retrieved = self.progress, found.get("ndcg_10", 0.0)
        progress.peak = max(progress.peak, retrieved)
        least = progress.peak - self.config.retrieval_tolerance
        fallen = progress.best.get("ndcg_10", -1.0) < least  # the best so far no longer retrieves well enough
        better = retrieved >= least and (fallen or found.get("nats", 0.0) <= progress.best.get("nats", 0.0))
        if better:
            progress.best = found
            tensors = self._tensors()
            if self.distribution.writes:
                write_atomically(self.out / "best.safetensors", tensors)
        return found, better

    def _tensors(self) -> dict[str, Tensor]:
        return trained_tensors(self.distribution.state(self._wrapped), adapters=self.config.lora is not None)

    def _save(self) -> None:
        tensors, optimiser = self._tensors(), self.distribution.optimiser_state(self._wrapped, self.optimiser)
        self.progress.positions = {objective.name: objective.position for objective in self._every_objective()}
        if self.distribution.writes:
            checkpoints.save_checkpoint(self.config, tensors, optimiser, self.progress, self._same)
        self.distribution.wait()

    def _log(self, record: dict[str, Any]) -> None:
        if self.distribution.writes:
            with (self.out / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def _export(self, tensors: dict[str, Tensor], target: Path) -> None:
        if not self.distribution.writes:
            return
        if self.config.lora is not None:
            tensors = rounded(tensors)  # before they are merged: the adapter on its base is then the exported model
            base = self.config.model.base
            save_adapter(self.model, tensors, target / "adapter", base)
            about = grit_config(self.encoder.tokenizer, self.config.model, self.config.reranking)
            write_grit_config(target / "adapter", about if base is None else {**about, "base": asdict(base)})
            tensors = {**merged(self.model, tensors), **_projection(tensors)}
        tensors = self.start.exported(tensors)
        model, reranking = self.config.model, self.config.reranking
        export_model(self.model.config, tensors, self.encoder.tokenizer, target, settings=model, reranking=reranking)

    def result(self, *, finished: bool) -> TrainResult:
        """Export the best weights, draw the metrics, and say how the run ended."""
        target, minutes, progress = self.out / "model", self.progress.seconds / 60, self.progress
        if self.distribution.writes:
            self._export(load_file(self.out / "best.safetensors"), target)
            card = model_card(
                self.config, steps=progress.step, minutes=minutes, first=progress.first, best=progress.best
            )
            (target / "README.md").write_text(card, encoding="utf-8")
            plot_metrics(self.out / "metrics.jsonl", self.out / "metrics.png")
        self.distribution.wait()
        return TrainResult(progress.step, finished, minutes, best=progress.best, model=target)


def _projection(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if name.startswith(PROJECTION)}


def _shown(record: dict[str, Any]) -> str:
    hidden = ("step", "seconds", "gradient")
    return " ".join(f"{name} {value:.3f}" for name, value in record.items() if name not in hidden)


def _remove_leftovers(out: Path) -> None:
    for leftover in ("checkpoints", "tokenizer", "start", "model"):
        shutil.rmtree(out / leftover, ignore_errors=True)
    for file in ("best.safetensors", "metrics.jsonl", "metrics.png"):
        (out / file).unlink(missing_ok=True)


def _forget_later_metrics(metrics: Path, step: int) -> None:
    """Remove the records that a killed run wrote behind its last checkpoint; the resumed run writes them again."""
    if not metrics.exists():
        return
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    kept = [record for record in records if record.get("evaluation", record)["step"] <= step]
    metrics.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Use `count` threads in the block, and as many as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turn Ctrl-C into an event while the block runs; a second Ctrl-C acts as usual."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
