"""Random-weight checkpoints with the true file layout of GritLM on the hub, made at test time."""

from __future__ import annotations

import functools
import json
import os
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils import logging

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}
CLASSES: dict[str, tuple[type[Any], type[PreTrainedModel]]] = {
    "mistral": (MistralConfig, MistralForCausalLM),
    "mixtral": (MixtralConfig, MixtralForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "phi3": (Phi3Config, Phi3ForCausalLM),
    "gemma3_text": (Gemma3TextConfig, Gemma3ForCausalLM),
    "granite": (GraniteConfig, GraniteForCausalLM),
}
_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # of these, which assume larger vocabularies
OWN: dict[str, dict[str, Any]] = {  # what these do that the others do not
    "phi3": {**_TOKENS, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75}},
    "gemma3_text": {
        **_TOKENS,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 4096,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "granite": {
        **_TOKENS,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.2,
        "logits_scaling": 4.0,
    },
}


def write_checkpoint(
    directory: Path, kind: str = "mistral", *, seed: int = 0, layers: int = 2, std: float = 0.3, **overrides: Any
) -> Path:
    """Write a random checkpoint as the hub has it: sharded, `auto_map`, top-level `rope_theta`, pickled duplicate."""
    config_class, model_class = CLASSES[kind]
    layers = 3 if kind == "gemma3_text" else layers
    config = config_class(**{**SMALL, "num_hidden_layers": layers, **OWN.get(kind, {}), **overrides})
    config.initializer_range = std  # large enough that attention and greedy choices depend on the text
    torch.manual_seed(seed)
    model = model_class(config)
    total = sum(parameter.nbytes for parameter in model.parameters())
    logging.disable_progress_bar()
    model.save_pretrained(directory, max_shard_size=total // 3 + 1024)
    _write_hub_config(directory / "config.json", kind)
    (directory / "pytorch_model.bin").write_bytes(b"a pickled duplicate that must never be opened")
    write_mistral_tokenizer(directory)
    return directory


def write_variant(directory: Path, source: Path, **keys: Any) -> Path:
    """Write the checkpoint in `source` once more, with a `grit_config.json` of these keys; nothing large is copied."""
    shutil.copytree(source, directory, copy_function=os.link)
    (directory / "grit_config.json").unlink(missing_ok=True)
    (directory / "grit_config.json").write_text(json.dumps(keys))
    return directory


def add_special_tokens(directory: Path, *tokens: str) -> None:
    """Give the tokenizer of a checkpoint tokens of their own behind those that it has."""
    file = directory / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    file.unlink()  # it may be shared with another checkpoint
    file.write_text(tokenizer.to_str())


def _write_hub_config(path: Path, kind: str) -> None:
    """Put the keys of GritLM's config.json in place that transformers 5 writes differently."""
    config = json.loads(path.read_text())
    if kind in OWN:  # whose own repositories keep their RoPE in one place
        return
    rope = config.pop("rope_parameters", {})
    config["rope_theta"] = rope.get("rope_theta", 10000.0)
    config["torch_dtype"] = config.pop("dtype", "float32")
    if kind in ("mistral", "mixtral"):
        stem = {"mistral": "modeling_gritlm7b.Mistral", "mixtral": "modeling_gritlm8x7b.Mixtral"}[kind]
        config["auto_map"] = {"AutoModel": f"{stem}Model", "AutoModelForCausalLM": f"{stem}ForCausalLM"}
        config["sliding_window"] = 4096 if kind == "mistral" else None
    path.write_text(json.dumps(config, indent=2))


def write_mistral_tokenizer(directory: Path) -> None:
    """Write tokenizer.json with the ids of the genuine Mistral-7B-v0.1 vocabulary."""
    (directory / "tokenizer.json").write_text(mistral_tokenizer_json())
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (directory / "tokenizer_config.json").write_text(json.dumps({**config, "pad_token": "<s>"}))


@functools.cache
def mistral_tokenizer_json() -> str:
    """Build tokenizer.json from the SentencePiece vocabulary in the `mistral-common` wheel."""
    pieces = sentencepiece.SentencePieceProcessor()
    pieces.Load(str(files("mistral_common").joinpath("data/tokenizer.model.v1")))
    vocabulary = {pieces.IdToPiece(index): index for index in range(pieces.GetPieceSize())}
    scores = {piece: pieces.GetScore(index) for piece, index in vocabulary.items()}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, _merges(vocabulary, scores), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return str(tokenizer.to_str())


def _merges(vocabulary: dict[str, int], scores: dict[str, float]) -> list[tuple[str, str]]:
    """Order merges by the score of the piece they make, ties by the ids of the halves."""
    found = []
    for piece, score in scores.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocabulary and right in vocabulary:
                found.append((-score, vocabulary[left], vocabulary[right], (left, right)))
    return [halves for *_, halves in sorted(found)]
