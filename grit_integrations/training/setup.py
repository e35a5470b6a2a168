"""What a run is made of: tokenizer, module, optimiser, objectives and precision."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedTokenizerFast

from grit_integrations.errors import ConfigError
from grit_integrations.evaluation.labelled_texts import PromptEncoder
from grit_integrations.prompts.prompt_format import PromptFormat
from grit_integrations.training import attention
from grit_integrations.training.config import ModelConfig, OptimiserConfig, TrainConfig, check_window
from grit_integrations.training.export import EMBEDDING_HEAD
from grit_integrations.training.lora import add_adapters, load_adapter
from grit_integrations.training.module import GritModule
from grit_integrations.training.objectives.contrastive import EmbeddingObjective
from grit_integrations.training.objectives.generative import GenerativeObjective
from grit_integrations.training.objectives.objective import Context, Objective
from grit_integrations.training.objectives.rag import RagObjective
from grit_integrations.training.objectives.reranking import RerankingObjective
from grit_integrations.training.rows.row_files import RowFile
from grit_integrations.training.rows.stream import BatchPlan, Stream
from grit_integrations.training.rows.stream_files import StreamFiles
from grit_integrations.training.start.bpe_tokenizer import load_tokenizer, train_tokenizer
from grit_integrations.training.start.causal_lm import checkpoint_folder
from grit_integrations.training.start.start import Start

logger = logging.getLogger(__name__)

BAG_PAIRS = 1024  # at most, in a batch that trains the embedding table alone
TEXT_ROWS = 256  # at most, in a generative batch
RAG_ROWS = 4  # drawn together, about; a batch takes as many draws as fit


def make_tokenizer(config: TrainConfig, files: StreamFiles, saved: Path) -> PreTrainedTokenizerFast:
    """Return the checkpoint's tokenizer, the one `saved` by an earlier part of the run, or a new one."""
    if not config.model.is_new:
        return load_tokenizer(checkpoint_folder(config.model))
    if not (saved / "tokenizer.json").exists():
        logger.info("Training a tokenizer of %d tokens", config.model.vocab_size)
        texts = files.tokenizer_texts()
        train_tokenizer(texts, vocab_size=config.model.vocab_size, context=config.model.context).save_pretrained(saved)
    return load_tokenizer(saved)


def make_encoder(config: TrainConfig, files: StreamFiles, saved: Path) -> PromptEncoder:
    """Return what tokenises a run's prompts; documents read by themselves are read as the recipe embeds."""
    causal = config.model.attention.startswith("cc")
    prompts = PromptFormat(embedding_pattern="alone" if causal else "bidirectional")
    return PromptEncoder(make_tokenizer(config, files, saved), prompts)


def make_module(config: TrainConfig, start: Start, dtype: torch.dtype) -> GritModule:
    """Return what a run trains, with float32 weights, on the CPU."""
    lm = start.causal_lm()
    check_window(config, lm.config.max_position_embeddings)
    if config.lora is not None:
        add_adapters(lm, config.lora, seed=config.seed)
        if config.lora.start is not None:
            load_adapter(lm, Path(config.lora.start), config.lora)
    lm.set_attn_implementation(attention.register())
    if config.gradient_checkpointing:
        lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if config.torch_compile:
        for layer in lm.get_decoder().layers:  # one by one: what is compiled for the first serves the others
            layer.compile(dynamic=True)
    torch.manual_seed(config.seed)  # of a new projection
    module = GritModule(lm, config.model, dtype=dtype)
    _load_projection(config.model, module)
    return module.train()


def _load_projection(settings: ModelConfig, module: GritModule) -> None:
    """Continue a checkpoint's own projection, when it has one of the recipe's length."""
    path = Path(settings.checkpoint or "") / EMBEDDING_HEAD  # which a GGUF base does not have
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


def make_objectives(context: Context, files: StreamFiles) -> list[Objective[Any]]:
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


def make_bag(context: Context, files: StreamFiles) -> Objective[Any] | None:
    """Return the objective of the first `bag_steps`, if there are any."""
    config = context.config
    if not config.bag_steps:
        return None
    from grit_integrations.training.objectives.bag import BagObjective

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
