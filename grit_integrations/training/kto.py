"""KTO behind GRIT: the answers that people liked become likelier, by TRL's trainer, on the model's own prompts.

Usage: `python -m grit_integrations.training.kto MODEL ROWS.jsonl OUT`, or `train_kto` from Python. The rows are
`{"prompt": str | [user, assistant, user, ...], "completion": str, "label": true | false}`. Only the generative use is
trained, as in the GritLM paper (KTO: Ethayarajh et al. 2024, arXiv 2402.01306); the embedding use comes along.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grit_integrations.errors import ConfigError, DataError, MissingExtraError
from grit_integrations.evaluation.labelled_texts import IGNORED, PromptEncoder
from grit_integrations.evaluation.row_kinds import TextRow
from grit_integrations.training.checkpoints import trained_tensors
from grit_integrations.training.config import ModelConfig
from grit_integrations.training.export import EMBEDDING_HEAD, export_model
from grit_integrations.training.rows.row_files import RowFile
from grit_integrations.training.start import causal_lm
from grit_integrations.training.start.bpe_tokenizer import load_tokenizer

try:
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer  # type: ignore[attr-defined]  # trl loads its names lazily
except ModuleNotFoundError as error:
    if error.name not in ("trl", "datasets"):  # a broken install shows its true cause
        raise
    raise MissingExtraError("trl", "kto") from error

logger = logging.getLogger(__name__)

_TRL = "trl"  # folder that TRL insists on


@dataclass(frozen=True, kw_only=True)
class KtoSettings:
    """How the model is moved."""

    learning_rate: float = 5e-7
    beta: float = 0.1  # how far it may move from where it started: higher is less far
    epochs: float = 1.0
    batch: int = 8  # rows; at least 2, and each batch should hold both labels
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    gradient_checkpointing: bool = False
    bfloat16: bool = False  # matrix products
    cpu: bool = False  # even where there is a GPU
    seed: int = 0


@dataclass(frozen=True, slots=True)
class RatedRow:
    """A conversation whose last response somebody liked or not."""

    text: TextRow
    liked: bool

    @property
    def size(self) -> int:
        """The length in characters."""
        return self.text.size


def parse_rated(row: Any) -> RatedRow:
    """Check and read one row.

    Raises:
        ValueError: says what is wrong with it.
    """
    if not isinstance(row, dict) or {"prompt", "completion", "label"} - row.keys():
        raise ValueError('a row needs "prompt", "completion" and "label"')
    prompt = [row["prompt"]] if isinstance(row["prompt"], str) else row["prompt"]
    turns = [*prompt, row["completion"]] if isinstance(prompt, list) else []
    if not turns or len(turns) % 2 or not all(isinstance(turn, str) and turn.strip() for turn in turns):
        raise ValueError('"prompt" must be a text or [user, assistant, ..., user], "completion" a text, none blank')
    if not isinstance(row["label"], bool):
        raise ValueError(f'"label" is {row["label"]!r}; it must be true or false')
    return RatedRow(TextRow(tuple(turns)), row["label"])


def train_kto(model: Path, rows: Path, out: Path, settings: KtoSettings | None = None) -> Path:
    """Train a model directory on judged answers and write the result like `train` does; returns `out`.

    Args:
        model: a directory that `grit train` exported, or any supported checkpoint.
        rows: a `.jsonl` or `.jsonl.zst` file.
        out: where the new model goes, with TRL's log beside it.
        settings: how.

    Raises:
        ConfigError: `model` is no checkpoint.
        DataError: a wrong row, by file and line; rows of one label only.
    """
    settings = settings or KtoSettings()
    folder = causal_lm.checkpoint_folder(ModelConfig(checkpoint=str(model)))
    if settings.batch < 2:
        raise ConfigError(f"batch is {settings.batch}. KTO compares the rows of a batch: it must be at least 2.")
    judged = RowFile(rows, parse_rated)
    encoder = PromptEncoder(load_tokenizer(folder))
    policy = causal_lm.load_model(folder)
    examples = as_examples(judged, encoder, window=policy.config.max_position_embeddings)
    trainer = _TokenisedKto(
        model=policy,
        ref_model=causal_lm.load_model(folder),
        args=_arguments(settings, out),
        train_dataset=Dataset.from_list(examples),
        processing_class=encoder.tokenizer,
    )
    trainer.train()
    shutil.rmtree(out / _TRL, ignore_errors=True)
    _export(policy, encoder, model, out)
    (out / "kto.json").write_text(
        json.dumps({"settings": asdict(settings), "log": trainer.state.log_history}, indent=1) + "\n", encoding="utf-8"
    )
    return out


def as_examples(judged: RowFile[RatedRow], encoder: PromptEncoder, *, window: int) -> list[dict[str, Any]]:
    """Return token ids as TRL wants them, of our own prompts; rows longer than the window are left out, and counted.

    Raises:
        DataError: those that are left do not have both labels.
    """
    examples = []
    for row in (judged[index] for index in range(len(judged))):
        ids, labels = encoder.conversation(row.text)
        start = len(labels) - labels[::-1].index(IGNORED)  # of the last response
        if len(ids) <= window:
            examples.append({"prompt_ids": ids[:start], "completion_ids": ids[start:], "label": row.liked})
    if len(examples) < len(judged):
        logger.warning("%d of %d rows are longer than %d tokens", len(judged) - len(examples), len(judged), window)
    if len({example["label"] for example in examples}) < 2:
        raise DataError(f"{judged.path} needs rows with label true and rows with label false, within {window} tokens.")
    return examples


class _TokenisedKto(KTOTrainer):
    """TRL's trainer on ids that are made already: it would tokenise whole prompts, which merges other tokens."""

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        def mismatched(batch: dict[str, Any]) -> dict[str, Any]:
            """Pair each prompt with its neighbour's answer, by which KTO estimates how far the model has moved."""
            answers = batch["completion_ids"]
            return {**batch, "KL_completion_ids": [answers[-1], *answers[:-1]]}

        return dataset.map(mismatched, batched=True, batch_size=args.per_device_train_batch_size)


def _arguments(settings: KtoSettings, out: Path) -> Any:
    return KTOConfig(
        output_dir=str(out / _TRL),
        learning_rate=settings.learning_rate,
        beta=settings.beta,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch,
        desirable_weight=settings.desirable_weight,
        undesirable_weight=settings.undesirable_weight,
        gradient_checkpointing=settings.gradient_checkpointing,
        bf16=settings.bfloat16,
        use_cpu=settings.cpu,
        seed=settings.seed,
        max_length=None,  # rows are within the window
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    )


def _export(policy: Any, encoder: PromptEncoder, model: Path, out: Path) -> None:
    """Write the trained weights; what the embedding use needs besides is the first model's."""
    about = json.loads((model / "grit_config.json").read_text()) if (model / "grit_config.json").exists() else {}
    settings = ModelConfig(**{key: about[key] for key in ("pooling", "attention") if key in about})
    export_model(
        policy.config, trained_tensors(policy.state_dict(), adapters=False), encoder.tokenizer, out, settings=settings
    )
    if (model / EMBEDDING_HEAD).exists():
        shutil.copyfile(model / EMBEDDING_HEAD, out / EMBEDDING_HEAD)


def main() -> None:
    """Run KTO from the command line."""
    defaults = KtoSettings()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--beta", type=float, default=defaults.beta)
    parser.add_argument("--epochs", type=float, default=defaults.epochs)
    parser.add_argument("--batch", type=int, default=defaults.batch)
    parser.add_argument("--cpu", action="store_true")
    options = vars(parser.parse_args())
    model, rows, out = (options.pop(name) for name in ("model", "rows", "out"))
    print(train_kto(model, rows, out, KtoSettings(**options)))  # noqa: T201


if __name__ == "__main__":
    main()
