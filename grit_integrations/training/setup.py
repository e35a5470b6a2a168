"""What a run is made of: tokenizer, model, optimiser, the two streams, device and precision."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from grit_integrations.errors import ConfigError
from grit_integrations.training import initial
from grit_integrations.training.batches import PromptEncoder
from grit_integrations.training.config import OptimiserConfig, TrainConfig
from grit_integrations.training.data import (
    BatchPlan,
    Pair,
    RowFile,
    Stream,
    Text,
    open_files,
    parse_pair,
    parse_text,
)
from grit_integrations.training.tokenizer import load_tokenizer, train_tokenizer

logger = logging.getLogger(__name__)

IDF_DOCUMENTS = 20_000  # texts that the bag's weights are counted on
BAG_PAIRS = 1024  # at most, in a batch that trains the embedding table alone
TEXT_ROWS = 256  # at most, in a generative batch


@dataclass(frozen=True, slots=True)
class Files:
    """The opened rows of both streams."""

    pairs: list[RowFile[Pair]]
    texts: list[RowFile[Text]]


@dataclass(frozen=True, slots=True)
class Streams:
    """Endless batches. `bag` gives larger contrastive batches than `embedding`."""

    bag: Stream[Pair]
    embedding: Stream[Pair]
    generative: Stream[Text]


def open_data(config: TrainConfig) -> Files:
    """Open and check every row of the recipe's data."""
    folder = Path(config.data.data)
    return Files(
        open_files(folder / config.data.embedding, parse_pair), open_files(folder / config.data.generative, parse_text)
    )


def make_tokenizer(config: TrainConfig, files: Files, saved: Path) -> PreTrainedTokenizerFast:
    """Return the checkpoint's tokenizer, the one `saved` by an earlier part of the run, or a new one."""
    if config.model.checkpoint is not None:
        initial.check_checkpoint(config.model.checkpoint)
        return load_tokenizer(Path(config.model.checkpoint))
    if not (saved / "tokenizer.json").exists():
        logger.info("Training a tokenizer of %d tokens", config.model.vocab_size)
        texts = _tokenizer_texts(files)
        train_tokenizer(texts, vocab_size=config.model.vocab_size, context=config.model.context).save_pretrained(saved)
    return load_tokenizer(saved)


def make_model(config: TrainConfig, encoder: PromptEncoder, texts: Sequence[RowFile[Text]]) -> Any:
    """Return the causal LM a run starts from, in float32."""
    if config.model.checkpoint is not None:
        return initial.load_model(config.model.checkpoint)
    model = initial.new_model(config.model, encoder.tokenizer, seed=config.seed)
    if config.model.start == "bag":
        codes = initial.token_codes(encoder.tokenizer)
        weights = initial.token_weights(encoder.texts(_spread(texts, IDF_DOCUMENTS)), codes)
        initial.start_as_bag(model, weights, codes, seed=config.seed, workspace=config.model.workspace)
        if config.model.workspace:
            initial.hold_workspace(model, config.model.workspace)
    return model


def make_optimiser(model: nn.Module, settings: OptimiserConfig) -> torch.optim.AdamW:
    """Return AdamW with a group, and a peak rate, for the embedding table, the head, and everything between."""
    groups: dict[str, list[nn.Parameter]] = {"embedding": [], "body": [], "head": []}
    for name, parameter in model.named_parameters():
        groups["embedding" if "embed_tokens" in name else "head" if "lm_head" in name else "body"].append(parameter)
    rates = {"embedding": settings.embedding_rate, "body": settings.body_rate, "head": settings.head_rate}
    return torch.optim.AdamW(
        [{"params": groups[name], "lr": rate, "peak": rate, "name": name} for name, rate in rates.items()],
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
    )


def make_streams(config: TrainConfig, files: Files) -> Streams:
    """Return the streams at their beginning. Their order depends on the files, the recipe and the seed alone."""
    data = config.data

    def pairs(name: str, tokens: int, rows: int) -> Stream[Pair]:
        plan = BatchPlan(tokens=tokens, longest=data.passage_tokens, rows=rows, same_file=True)
        return Stream(files.pairs, plan, weights=data.embedding_weights, seed=f"{config.seed}:{name}")

    plan = BatchPlan(tokens=config.generative_tokens, longest=data.text_tokens, rows=TEXT_ROWS, same_file=False)
    return Streams(
        bag=pairs("bag", config.bag_tokens, BAG_PAIRS),
        embedding=pairs("embedding", config.embedding_tokens, config.embedding_pairs),
        generative=Stream(files.texts, plan, weights=data.generative_weights, seed=f"{config.seed}:generative"),
    )


def choose_device(wanted: str) -> torch.device:
    """Return the device of a recipe; "auto" takes CUDA when there is one."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is 'cuda', but torch finds no CUDA device. Use device = 'auto' or 'cpu'.")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products; "auto" takes bfloat16 where the hardware has it."""
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    dtype = torch.bfloat16 if native else torch.float32
    logger.info("Computing in %s on %s (weights are float32)", dtype, device)
    return dtype


def _tokenizer_texts(files: Files) -> Iterator[str]:
    for file in files.texts:
        for index in range(len(file)):
            yield file[index].turns[-1]
    for questions in files.pairs:
        for index in range(len(questions)):
            yield questions[index].query


def _spread(files: Sequence[RowFile[Text]], count: int) -> list[str]:
    """Return about `count` texts, evenly from all files."""
    step = max(1, sum(map(len, files)) // count)
    return [file[index].turns[0] for file in files for index in range(0, len(file), step)]
