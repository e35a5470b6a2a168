"""Adapters with random factors, as PEFT saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch
from transformers import AutoModelForCausalLM


def write_adapter(base: Path, out: Path, *, seed: int = 1, gguf_file: str | None = None, **settings: Any) -> Path:
    """Write an adapter with random factors, as PEFT saves it."""
    arguments = {"gguf_file": gguf_file} if gguf_file else {}
    lm = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, **arguments)
    torch.manual_seed(seed)
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM", **settings}
    adapted = peft.get_peft_model(lm, peft.LoraConfig(**options, init_lora_weights=False))
    adapted.save_pretrained(out)
    return out
