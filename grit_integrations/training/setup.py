"""What a run is made of: rows, tokenizer, module, optimiser, objectives, device and precision."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedTokenizerFast

from grit_integrations.errors import ConfigError, DataError
from grit_integrations.evaluation.labelled_texts import PromptEncoder
from grit_integrations.evaluation.row_kinds import Pair, TextRow, parse_pair, parse_text
from grit_integrations.prompts.formats import USER, Segment, Special
from grit_integrations.reranking.wording import verdict_ids
from grit_integrations.training.config import ModelConfig, OptimiserConfig, TrainConfig, check_window
from grit_integrations.training.export import EMBEDDING_HEAD
from grit_integrations.training.lora import add_adapters
from grit_integrations.training.module import GritModule
from grit_integrations.training.objectives.contrastive import BagObjective, EmbeddingObjective
from grit_integrations.training.objectives.generative import GenerativeObjective
from grit_integrations.training.objectives.objective import Context, Objective
from grit_integrations.training.objectives.rag import RagObjective
from grit_integrations.training.objectives.reranking import RerankingObjective
from grit_integrations.training.rows.question_rows import QuestionRow, parse_question
from grit_integrations.training.rows.row_files import FileContent, RowFile, open_files, open_mixed, row_files
from grit_integrations.training.rows.stream import BatchPlan, Stream
from grit_integrations.training.start import causal_lm
from grit_integrations.training.start.bpe_tokenizer import load_tokenizer, train_tokenizer
from grit_integrations.training.start.from_nothing import judge, reader

logger = logging.getLogger(__name__)

IDF_DOCUMENTS = 20_000  # texts that the bag's weights are counted on
BAG_PAIRS = 1024  # at most, in a batch that trains the embedding table alone
TEXT_ROWS = 256  # at most, in a generative batch
RAG_ROWS = 8  # drawn together, about; a batch takes as many draws as fit
TOKENIZER_TEXTS = 80_000  # that a new tokenizer is learned from


@dataclass(frozen=True, slots=True)
class Files:
    """The opened rows of all streams."""

    pairs: list[RowFile[Pair]]
    texts: list[RowFile[TextRow]]
    reranking: list[RowFile[Pair]]
    rag: list[RowFile[QuestionRow]]

    def contents(self) -> dict[str, FileContent]:
        """Return what every file holds, by stream and name."""
        streams: dict[str, Sequence[RowFile[Any]]]
        streams = {"embedding": self.pairs, "generative": self.texts, "reranking": self.reranking, "rag": self.rag}
        return {f"{name}/{file.path.name}": file.content for name, files in streams.items() for file in files}


def open_data(config: TrainConfig) -> Files:
    """Open and check every row of the recipe's data: a folder per stream, or one folder with files of both streams.

    Raises:
        DataError: a wrong row, by file and line; a stream of the recipe without rows.
    """
    folder = Path(config.data.data)
    pairs, texts = folder / config.data.embedding, folder / config.data.generative
    ranked = open_files(folder / config.reranking.folder, parse_pair) if config.reranking else []
    asked = open_files(folder / config.rag.folder, parse_question) if config.rag else []
    wanted = {"pairs": config.embedding_weight > 0 or config.bag_steps > 0, "texts": config.generative_weight > 0}
    if folder.is_dir() and not pairs.is_dir() and not texts.is_dir() and row_files(folder):
        found = Files(*open_mixed(folder), ranked, asked)
        for name, rows in (("pairs", found.pairs), ("texts", found.texts)):
            if wanted[name] and not rows:
                raise DataError(f"{folder} has no file of {name}, which a stream of the recipe needs. Add one.")
        return found
    return Files(
        open_files(pairs, parse_pair) if wanted["pairs"] or pairs.is_dir() else [],
        open_files(texts, parse_text) if wanted["texts"] or texts.is_dir() else [],
        ranked,
        asked,
    )


def make_tokenizer(config: TrainConfig, files: Files, saved: Path) -> PreTrainedTokenizerFast:
    """Return the checkpoint's tokenizer, the one `saved` by an earlier part of the run, or a new one."""
    if config.model.checkpoint is not None:
        causal_lm.check_checkpoint(config.model.checkpoint)
        return load_tokenizer(Path(config.model.checkpoint))
    if not (saved / "tokenizer.json").exists():
        logger.info("Training a tokenizer of %d tokens", config.model.vocab_size)
        texts = _tokenizer_texts(files)
        train_tokenizer(texts, vocab_size=config.model.vocab_size, context=config.model.context).save_pretrained(saved)
    return load_tokenizer(saved)


def make_module(config: TrainConfig, encoder: PromptEncoder, files: Files, dtype: torch.dtype) -> GritModule:
    """Return what a run trains, with float32 weights, on the CPU."""
    lm = _make_lm(config, encoder, files)
    check_window(config, lm.config.max_position_embeddings)
    if config.lora is not None:
        add_adapters(lm, config.lora, seed=config.seed)
    if config.gradient_checkpointing:
        lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    torch.manual_seed(config.seed)  # of a new projection
    module = GritModule(lm, config.model, dtype=dtype)
    _load_projection(config.model, module)
    return module.train()


def _make_lm(config: TrainConfig, encoder: PromptEncoder, files: Files) -> Any:
    if config.model.checkpoint is not None:
        loaded: Any = causal_lm.load_model(config.model.checkpoint)
        if config.model.workspace:
            causal_lm.unfold_workspace(loaded, config.model.workspace)
            causal_lm.hold_workspace(loaded, config.model.workspace, shared=_shared(config.model))
        _start_judging(config, encoder, loaded)
        return loaded
    model = causal_lm.new_model(config.model, encoder.tokenizer, seed=config.seed)
    if config.model.start != "random":
        codes = causal_lm.token_codes(encoder.tokenizer)
        documents = _spread(files.texts, IDF_DOCUMENTS) or _spread_passages(files.pairs, IDF_DOCUMENTS)
        weights = causal_lm.token_weights(encoder.texts(documents), codes)
        causal_lm.start_as_bag(model, weights, codes, seed=config.seed, workspace=config.model.workspace)
        if config.model.workspace:
            causal_lm.hold_workspace(model, config.model.workspace, shared=_shared(config.model))
    return model


def _shared(settings: ModelConfig) -> int:
    """Return how many of the workspace's coordinates the embeddings write as well."""
    return reader.IDENTITY if settings.start == "reader" else 0


def wake_layers(config: TrainConfig, encoder: PromptEncoder, model: Any) -> None:
    """Give silent layers their start, once the embedding table that they read is trained."""
    if config.model.start == "reader" and config.model.checkpoint is None:
        codes = causal_lm.token_codes(encoder.tokenizer)
        scale = causal_lm.WORKSPACE_SCALE
        reader.start_as_reader(model, codes, workspace_scale=scale, seed=config.seed)
        _start_judging(config, encoder, model)


def _start_judging(config: TrainConfig, encoder: PromptEncoder, model: Any) -> None:
    if config.reranking is not None and config.reranking.start:
        yes, no = verdict_ids(encoder.prompts)
        begin, user, *_ = encoder.parts([Special.BOS, Segment(USER)])
        judge.start_as_judge(model, begin=begin, user=user, yes=yes, no=no, seed=config.seed)


def _load_projection(settings: ModelConfig, module: GritModule) -> None:
    """Continue a checkpoint's own projection, when it has one of the recipe's length."""
    path = Path(settings.checkpoint or "") / EMBEDDING_HEAD
    if settings.checkpoint is None or module.projection is None or not path.exists():
        return
    tensors = {name: value.float() for name, value in load_file(path).items()}
    if tensors["weight"].shape != module.projection.weight.shape:
        raise ConfigError(
            f"model.projection is {settings.projection}, but {path} has {len(tensors['weight'])}. Set it to that, or "
            "remove the file to start a new one."
        )
    module.projection.load_state_dict(tensors)


def make_optimiser(model: nn.Module, settings: OptimiserConfig) -> torch.optim.AdamW:
    """Return AdamW with a group, and a peak rate, for the embedding table, the heads, and everything between."""
    groups: dict[str, list[nn.Parameter]] = {"embedding": [], "body": [], "head": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[_group(name)].append(parameter)
    rates = {"embedding": settings.embedding_rate, "body": settings.body_rate, "head": settings.head_rate}
    return torch.optim.AdamW(
        [{"params": groups[name], "lr": rate, "peak": rate, "name": name} for name, rate in rates.items()],
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
    )


def _group(parameter: str) -> str:
    if "embed_tokens" in parameter:
        return "embedding"
    return "head" if "lm_head" in parameter or parameter.startswith("projection.") else "body"


def make_objectives(context: Context, files: Files) -> list[Objective[Any]]:
    """Return the objectives of a step, at their beginning; those of weight 0 are left out.

    Their order of rows depends on the files, the recipe, the seed and the number of processes alone.
    """
    config, data, found = context.config, context.config.data, list[Objective[Any]]()
    if config.embedding_weight > 0:
        plan = _pair_plan(context, config.embedding_tokens, config.embedding_pairs)
        stream = _stream(context, "embedding", files.pairs, plan, data.embedding_weights)
        every = config.embedding_every
        found.append(EmbeddingObjective("embedding", config.embedding_weight, stream, context, every=every))
    if config.generative_weight > 0:
        plan = _text_plan(context, config.generative_tokens, data.text_tokens)
        stream = _stream(context, "generative", files.texts, plan, data.generative_weights)
        every = config.generative_every
        found.append(GenerativeObjective("generative", config.generative_weight, stream, context, every=every))
    if config.rag is not None:
        plan = _text_plan(context, config.rag.tokens, config.rag.tokens // RAG_ROWS)
        stream = _stream(context, "rag", files.rag, plan, config.rag.weights)
        found.append(RagObjective(config.rag, stream, context))
    if config.reranking is not None:
        plan = _text_plan(context, config.reranking.tokens // config.reranking.passages, data.passage_tokens)
        stream = _stream(context, "reranking", files.reranking, plan, config.reranking.weights)
        found.append(RerankingObjective(config.reranking, stream, context))
    return found


def make_bag(context: Context, files: Files) -> Objective[Any] | None:
    """Return the objective of the first `bag_steps`, if there are any."""
    config = context.config
    if not config.bag_steps:
        return None
    plan = _pair_plan(context, config.bag_tokens, BAG_PAIRS)
    return BagObjective("bag", 1.0, _stream(context, "bag", files.pairs, plan, config.data.embedding_weights), context)


def _pair_plan(context: Context, tokens: int, rows: int) -> BatchPlan:
    least = max(2, context.processes.count)
    return BatchPlan(tokens, context.config.data.passage_tokens, rows, same_file=True, least=least)


def _text_plan(context: Context, tokens: int, longest: int) -> BatchPlan:
    return BatchPlan(tokens, longest, TEXT_ROWS, same_file=False, least=context.processes.count)


def _stream(
    context: Context, name: str, files: Sequence[RowFile[Any]], plan: BatchPlan, weights: Mapping[str, float]
) -> Stream[Any]:
    return Stream(files, plan, weights=weights, seed=f"{context.config.seed}:{name}")


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products; "auto" takes bfloat16 where the hardware has it."""
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    dtype = torch.bfloat16 if native else torch.float32
    logger.info("Computing in %s on %s (weights are float32)", dtype, device)
    return dtype


def _tokenizer_texts(files: Files) -> list[str]:
    """Return texts and queries, evenly from all files."""
    rows = sum(map(len, files.texts)) + sum(map(len, files.pairs))
    step = max(1, rows // TOKENIZER_TEXTS)
    texts = [file[index].turns[-1] for file in files.texts for index in range(0, len(file), step)]
    return texts + [file[index].query for file in files.pairs for index in range(0, len(file), step)]


def _spread(files: Sequence[RowFile[TextRow]], count: int) -> list[str]:
    """Return about `count` texts, evenly from all files."""
    step = max(1, sum(map(len, files)) // count)
    return [file[index].turns[0] for file in files for index in range(0, len(file), step)]


def _spread_passages(files: Sequence[RowFile[Pair]], count: int) -> list[str]:
    step = max(1, sum(map(len, files)) // count)
    return [file[index].positives[0] for file in files for index in range(0, len(file), step)]
