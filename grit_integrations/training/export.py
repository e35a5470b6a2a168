"""Write a trained model as a directory that stock transformers loads."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerFast

from grit_integrations.prompts.golden import golden_ids
from grit_integrations.prompts.tokenizer import PromptTokenizer
from grit_integrations.training.config import ModelConfig, RerankingConfig, TrainConfig

EMBEDDING_HEAD = "embedding_head.safetensors"  # for GritLM.from_pretrained(..., embedding_head=...)
PROJECTION = "projection."  # what its tensors are called in a checkpoint

GOLDEN_EMBED = "<|embed|>\n"
GOLDEN_INSTRUCTED = "<|user|>\nInstr.\n<|embed|>\nhello"
GOLDEN_ASSISTANT = "<|assistant|>\n"


def export_model(
    config: PretrainedConfig,
    weights: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerFast,
    out: Path,
    *,
    settings: ModelConfig | None = None,
    reranking: RerankingConfig | None = None,
) -> None:
    """Write bfloat16 safetensors, config, generation config, tokenizer and `grit_config.json`.

    Args:
        config: of the causal LM.
        weights: its tensors by their names; those called `projection.*` become `embedding_head.safetensors`.
        tokenizer: the model's.
        out: a directory.
        settings: pooling and attention that inference must know of; those of GritLM by default.
        reranking: how verdicts were trained, if they were.
    """
    out.mkdir(parents=True, exist_ok=True)
    saved = copy.deepcopy(config)
    saved.dtype = torch.bfloat16
    saved.save_pretrained(out)
    GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    ).save_pretrained(out)
    plain = {name: value.to(torch.bfloat16) for name, value in weights.items()}
    head = {name.removeprefix(PROJECTION): plain.pop(name) for name in list(plain) if name.startswith(PROJECTION)}
    write_atomically(out / "model.safetensors", plain)
    if head:
        write_atomically(out / EMBEDDING_HEAD, head)
    tokenizer.save_pretrained(out)
    _drop_load_options(out / "tokenizer_config.json")
    write_grit_config(out, grit_config(tokenizer, settings, reranking))


def write_grit_config(out: Path, about: Mapping[str, object]) -> None:
    """Write what a loader has to know of a model beside its weights, or beside the adapter that makes it."""
    (out / "grit_config.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def write_atomically(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file under a temporary name, then rename it; when that fails, the old file stays."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, temporary, metadata={"format": "pt"})
        temporary.chmod(0o644)  # safetensors gives what it writes to its owner alone
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def model_card(
    config: TrainConfig, *, steps: int, minutes: float, first: Mapping[str, Any], best: Mapping[str, Any]
) -> str:
    """Return a model card with what the run knows; what only its maker knows is left to write."""
    rows = [f"| {name} | {first.get(name, '-')} | {best.get(name, '-')} |" for name in ("ndcg_10", "recall_1", "nats")]
    return "\n".join(
        [
            f"# {Path(config.output).name}",
            "",
            "A causal language model that also embeds, trained with the GRIT recipe of `grit_integrations.training`.",
            "",
            "(For its maker to write: data, licences, attribution; what was held out; what the model cannot do.)",
            "",
            f"{steps} steps, {minutes:.1f} minutes of training; the weights are those of step {best.get('step')}.",
            "",
            "| watched while training | before step 1 | these weights |",
            "|---|---|---|",
            *rows,
            "",
            "## Recipe",
            "",
            "```json",
            json.dumps(_without_paths(asdict(config)), indent=1),
            "```",
            "",
        ]
    )


def _without_paths(table: dict[str, Any]) -> dict[str, Any]:
    data = {key: value for key, value in table["data"].items() if key != "data"}
    return {**{key: value for key, value in table.items() if key != "output"}, "data": data}


def _drop_load_options(path: Path) -> None:
    """Remove how this run loaded the tokenizer, which transformers saves with it."""
    saved = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in saved.items() if key not in ("is_local", "local_files_only")}
    path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def grit_config(
    tokenizer: PreTrainedTokenizerFast,
    settings: ModelConfig | None = None,
    reranking: RerankingConfig | None = None,
) -> dict[str, object]:
    """Return what a loader checks the tokenizer against and how vectors are pooled.

    With it stand attention that is not GritLM's, and the order of prompts that verdicts were trained in most.
    """
    settings = settings or ModelConfig()
    prompts = PromptTokenizer(tokenizer)
    golden = {text: golden_ids(prompts, text) for text in (GOLDEN_EMBED, GOLDEN_INSTRUCTED, GOLDEN_ASSISTANT)}
    about: dict[str, object] = {"format": 1, "golden": golden, "pooling": settings.pooling}
    if settings.attention != "bbcc":
        about["attention"] = settings.attention
    if reranking is not None:
        about["reranking_order"] = max(reranking.orders, key=lambda order: reranking.orders[order])
    return about
