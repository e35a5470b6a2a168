"""Tiny GGUF files with random weights and the tables of a real one, written with the format's own library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType, quants
from tokenizers.pre_tokenizers import ByteLevel

HIDDEN, HEADS, KV_HEADS, MLP, LAYERS = 64, 4, 2, 96, 2
SPECIAL = ["<unk>", "<s>", "</s>", "<|endoftext|>"]


def write_gguf(
    path: Path,
    *,
    architecture: str = "llama",
    quantization: GGMLQuantizationType = GGMLQuantizationType.Q8_0,
    seed: int = 0,
    beside: str | None = None,
) -> Path:
    """Write a Llama with a byte-level vocabulary, its matrices quantised; with a vector of a name `beside` them."""
    tokens = [*SPECIAL, *sorted(ByteLevel.alphabet()), "ou", "th"]
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_merges(["o u", "t h"])
    writer.add_token_types([TokenType.CONTROL] * len(SPECIAL) + [TokenType.NORMAL] * (len(tokens) - len(SPECIAL)))
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    rng = np.random.default_rng(seed)
    for name, shape in _shapes(len(tokens)).items():
        if len(shape) == 1:
            writer.add_tensor(name, np.ones(shape, dtype=np.float32))
            continue
        weights = rng.normal(0, 0.3, shape).astype(np.float32)
        writer.add_tensor(name, quants.quantize(weights, quantization), raw_dtype=quantization)
    if beside is not None:
        writer.add_tensor(beside, np.ones(8, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    kv = HIDDEN // HEADS * KV_HEADS
    layer: dict[str, tuple[int, ...]] = {
        "attn_q": (HIDDEN, HIDDEN),
        "attn_k": (kv, HIDDEN),
        "attn_v": (kv, HIDDEN),
        "attn_output": (HIDDEN, HIDDEN),
        "attn_norm": (HIDDEN,),
        "ffn_gate": (MLP, HIDDEN),
        "ffn_up": (MLP, HIDDEN),
        "ffn_down": (HIDDEN, MLP),
        "ffn_norm": (HIDDEN,),
    }
    shapes = {f"blk.{index}.{name}.weight": shape for index in range(LAYERS) for name, shape in layer.items()}
    return {"token_embd.weight": (vocabulary, HIDDEN), **shapes, "output_norm.weight": (HIDDEN,)}
