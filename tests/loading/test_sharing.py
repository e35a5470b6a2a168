"""Five adapters of two frameworks, and Chroma's, hold one set of weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from checkpoints import write_checkpoint

from grit_integrations import GritLM
from grit_integrations.chroma import GritEmbeddingFunction
from grit_integrations.langchain import ChatGrit, GritEmbeddings
from grit_integrations.langchain import GritLLM as LangChainLLM
from grit_integrations.llama_index import GritEmbedding
from grit_integrations.llama_index import GritLLM as LlamaIndexLLM

MEMORY = Path(__file__).parents[2] / "benchmarks" / "memory.py"


def pointers(grit: GritLM) -> list[int]:
    return [parameter.data_ptr() for parameter in grit.lm.parameters()]


def test_adapters_that_name_one_checkpoint_hold_one_storage(tiny_path: Path) -> None:
    name = str(tiny_path)
    models = [
        GritEmbeddings(model=name).grit,
        ChatGrit(model=name).grit,
        LangChainLLM(model=name).grit,
        GritEmbedding(name).grit,
        LlamaIndexLLM(name).grit,
        GritEmbeddingFunction(name).model,
    ]
    assert not any(model.is_loaded for model in models)
    first = pointers(models[0])
    assert all(pointers(model) == first for model in models)


def added_memory(arm: str, path: Path) -> int:
    environ = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # freed buffers go back at once
    output = subprocess.run(
        [sys.executable, str(MEMORY), arm, str(path)], check=True, capture_output=True, text=True, env=environ
    ).stdout
    figures = json.loads(output.splitlines()[-1])
    return int(figures["after"] - figures["before"])


def test_six_adapters_take_the_memory_of_one_load(tmp_path: Path) -> None:
    """Resident memory within 5 % of one load, on random weights of about 700 MB."""
    path = write_checkpoint(
        tmp_path / "large", layers=8, std=0.02, hidden_size=1024, intermediate_size=3584, num_attention_heads=16
    )
    one, all_adapters = added_memory("core", path), added_memory("adapters", path)
    assert all_adapters < 1.05 * one
