"""The GRIT training loop: both streams in every step, checkpoints that resume to the bit, and the best weights kept."""

from __future__ import annotations

import json
import logging
import math
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from grit_integrations.encoder import bidirectional_view, pool
from grit_integrations.errors import TrainingDivergedError
from grit_integrations.training import evaluate, setup
from grit_integrations.training.batches import EmbeddingInputs, PromptEncoder, contrastive_batch, text_batch
from grit_integrations.training.checkpoints import (
    Progress,
    load_checkpoint,
    model_tensors,
    newest_checkpoint,
    save_checkpoint,
    write_atomically,
)
from grit_integrations.training.config import TrainConfig
from grit_integrations.training.data import Text
from grit_integrations.training.export import export_model, model_card
from grit_integrations.training.losses import info_nce, response_loss

logger = logging.getLogger(__name__)

WATCHED_TEXTS = 4  # rows of each generation set that are evaluated while training


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended."""

    steps: int
    finished: bool  # False when it was interrupted; the same call goes on from there
    minutes: float  # of training, over all resumed parts
    best: dict[str, Any]  # the evaluation that the exported weights had
    model: Path  # directory that AutoModelForCausalLM loads


def train(config: TrainConfig, *, resume: bool = True, progress: bool | None = None) -> TrainResult:
    """Train a model with both streams of GRIT and export the best weights.

    Ctrl-C ends the current step, writes a checkpoint and returns; calling again goes on from the newest checkpoint
    with the same data order, optimiser and random state.

    Args:
        config: the recipe, see `load_config`.
        resume: continue from the newest checkpoint when there is one; otherwise start over, and remove what an
            earlier run left in `config.output`.
        progress: show a bar; by default when standard error is a terminal.

    Raises:
        ConfigError: the recipe cannot be run.
        DataError: a data file is wrong; names file and line.
        TrainingDivergedError: a loss is not finite; names step and stream.
    """
    out = Path(config.output)
    if not resume:
        for leftover in ("checkpoints", "tokenizer", "start", "model"):
            shutil.rmtree(out / leftover, ignore_errors=True)
        for file in ("best.safetensors", "metrics.jsonl"):
            (out / file).unlink(missing_ok=True)
    with _threads(config.threads):
        run = Run(config)
        newest = newest_checkpoint(out)
        if newest is not None:
            run.progress = load_checkpoint(newest, config, run.model, run.optimiser, run.streams)
            logger.info("Resumed after step %d", run.progress.step)
        shown = sys.stderr.isatty() if progress is None else progress
        with _interruptible() as stop, tqdm(total=config.steps, initial=run.progress.step, disable=not shown) as bar:
            finished = run.steps(stop, bar)
        return run.result(finished=finished)


class Run:
    """One training run in memory."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.out = Path(config.output)
        self.out.mkdir(parents=True, exist_ok=True)
        self.device = setup.choose_device(config.device)
        self.dtype = setup.choose_precision(config.precision, self.device)
        files = setup.open_data(config)
        self.encoder = PromptEncoder(setup.make_tokenizer(config, files, self.out / "tokenizer"))
        self.model = setup.make_model(config, self.encoder, files.texts).to(self.device)
        self.view: Any = bidirectional_view(self.model.model)
        self.optimiser = setup.make_optimiser(self.model, config.optimiser)
        self.streams = setup.make_streams(config, files)
        self.progress = Progress()

    def steps(self, stop: threading.Event, bar: Any) -> bool:
        """Train to the end of the schedule; return False when `stop` was set before it."""
        if not self.progress.first:
            export_model(self.model.config, model_tensors(self.model), self.encoder.tokenizer, self.out / "start")
            self.progress.first = self._evaluated()
        while self._share() < 1.0:
            record = self.step()
            self._log(record)
            bar.update(1)
            bar.set_postfix_str(
                " ".join(f"{key} {record[key]:.3f}" for key in ("embedding", "generative") if key in record)
            )
            ended, step = self._share() >= 1.0, self.progress.step
            if ended or step % self.config.evaluate_every == 0:
                self._evaluated()
            if ended or stop.is_set() or step % self.config.checkpoint_every == 0:
                save_checkpoint(self.config, self.model, self.optimiser, self.streams, self.progress)
            if stop.is_set() and not ended:
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
        """Take one optimiser step over both streams and return what to log."""
        began = time.monotonic()
        bag = self.progress.step < self.config.bag_steps
        record: dict[str, Any] = {"step": self.progress.step + 1}
        self._set_rates(bag=bag)
        self.optimiser.zero_grad(set_to_none=True)
        if bag or self.config.embedding_weight > 0:
            record["embedding"] = self._backward_pairs(bag=bag)
        if not bag and self.config.generative_weight > 0:
            record["generative"] = self._backward_texts()
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimiser.clip))
        self._check(norm, "gradient of both streams")
        self.optimiser.step()
        self.progress.step += 1
        self.progress.seconds += time.monotonic() - began
        return {**record, "gradient": round(norm, 4), "seconds": round(self.progress.seconds, 1)}

    def _set_rates(self, *, bag: bool) -> None:
        settings, step = self.config.optimiser, self.progress.step - (0 if bag else self.config.bag_steps)
        warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, self._share())))
        scale = warm * (settings.final_rate + (1 - settings.final_rate) * cosine)
        for group in self.optimiser.param_groups:
            group["lr"] = warm * self.config.bag_rate if bag else group["peak"] * scale

    def _backward_pairs(self, *, bag: bool) -> float:
        data = self.config.data
        stream = self.streams.bag if bag else self.streams.embedding
        name = f"{self.config.seed}:instruction:{stream.position.epoch}:{stream.position.batch}"
        instructed = random.Random(name).random() >= data.instruction_dropout  # noqa: S311  # data order, not secrets
        batch = contrastive_batch(
            self.encoder,
            next(stream),
            query_tokens=data.query_tokens,
            passage_tokens=data.passage_tokens,
            instructed=instructed and not bag,
        )
        queries, passages = (self._vectors(side.to(self.device), bag=bag) for side in (batch.queries, batch.passages))
        loss = info_nce(queries, passages, batch.texts.to(self.device), temperature=self.config.temperature)
        return self._backward(loss, "embedding stream", 1.0 if bag else self.config.embedding_weight)

    def _vectors(self, inputs: EmbeddingInputs, *, bag: bool) -> Tensor:
        if bag:  # silent layers add nothing, so the pooled state is the mean of the normed embeddings
            states = self.model.model.norm(self.model.model.embed_tokens.weight)  # (vocabulary, dim)
            picked, rows = inputs.ids[inputs.sample.bool()], inputs.sample.sum(dim=1)
            return nn.functional.embedding_bag(picked, states, rows.cumsum(0) - rows, mode="mean")
        with self._autocast():
            hidden = self.view(input_ids=inputs.ids, attention_mask=inputs.attended, use_cache=False).last_hidden_state
        return pool(hidden, inputs.attended, inputs.sample)

    def _backward_texts(self) -> float:
        texts = next(self.streams.generative)
        batch = text_batch(self.encoder, texts, longest=self.config.data.text_tokens).to(self.device)
        with self._autocast():
            hidden = self.model.model(
                input_ids=batch.ids, attention_mask=batch.attended, use_cache=False
            ).last_hidden_state
            loss = response_loss(hidden, self.model.lm_head.weight, batch.labels, kind=self.config.generative_loss)
        return self._backward(loss, "generative stream", self.config.generative_weight)

    def _backward(self, loss: Tensor, stream: str, weight: float) -> float:
        value = loss.item()
        self._check(value, stream)
        torch.autograd.backward(loss * weight)
        return value

    def _check(self, value: float, what: str) -> None:
        if not math.isfinite(value):
            raise TrainingDivergedError(
                f"Step {self.progress.step + 1}: the {what} is {value}. Lower the learning rates, or resume from "
                f"the checkpoint before it in {self.out / 'checkpoints'}."
            )

    def _autocast(self) -> AbstractContextManager[None]:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def measure(self) -> dict[str, Any]:
        """Return mean retrieval scores over the watched sets and the mean loss on held-out responses.

        Data without evaluation sets gives neither; then the last weights are the best.
        """
        found = {watched.name: self._retrieval(watched) for watched in self._watched_sets()}
        record: dict[str, Any] = {"step": self.progress.step, "sets": found}
        for key in ("ndcg_10", "recall_1") if found else ():
            record[key] = sum(each[key] for each in found.values()) / len(found)
        texts = self._watched_texts()
        if texts:
            longest = self.config.data.text_tokens
            record["nats"] = evaluate.response_nats(
                self.model, self.encoder, texts, longest=longest, autocast=self._autocast
            )
        return record

    def _watched_sets(self) -> Iterator[evaluate.RetrievalSet]:
        config = self.config
        folder = Path(config.data.data) / config.data.retrieval
        for path in evaluate.evaluation_files(folder, config.evaluate_sets):
            yield evaluate.load_retrieval(path, queries=config.evaluate_queries, passages=config.evaluate_passages)

    def _watched_texts(self) -> list[Text]:
        files = evaluate.evaluation_files(Path(self.config.data.data) / self.config.data.generation)
        return [text for path in files for text in evaluate.load_texts(path)[:WATCHED_TEXTS]]

    def _retrieval(self, watched: evaluate.RetrievalSet) -> dict[str, float]:
        return evaluate.as_table(
            evaluate.model_scores(self.model, self.encoder, watched, instructed=True, autocast=self._autocast)
        )

    def _evaluated(self) -> dict[str, Any]:
        """Evaluate, log, and keep the weights if they are the best so far.

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
        if retrieved >= least and (fallen or found.get("nats", 0.0) <= progress.best.get("nats", 0.0)):
            progress.best = found
            write_atomically(self.out / "best.safetensors", model_tensors(self.model))
        return found

    def _log(self, record: dict[str, Any]) -> None:
        with (self.out / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def result(self, *, finished: bool) -> TrainResult:
        """Export the best weights and say how the run ended."""
        target = self.out / "model"
        weights = load_file(self.out / "best.safetensors")
        export_model(self.model.config, weights, self.encoder.tokenizer, target)
        minutes, progress = self.progress.seconds / 60, self.progress
        card = model_card(self.config, steps=progress.step, minutes=minutes, first=progress.first, best=progress.best)
        (target / "README.md").write_text(card, encoding="utf-8")
        return TrainResult(self.progress.step, finished, minutes, best=self.progress.best, model=target)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Use so many threads in the block, and as many as before after it."""
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
