"""Memory of one load against every adapter of both frameworks and Chroma over the same random 230M weights.

    python benchmarks/memory.py

Each arm is a process of its own; it imports everything, notes its resident set, loads, does one embedding and one
generation through each of its adapters, and notes it again. The limit is the bytes of the parameters.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import RESULTS, environment, random_230m, save

ARMS = {
    "one GritLM, no framework": "core",
    "5 adapters of 2 frameworks + Chroma": "adapters",
    "transformers twice (an embedder and a generator)": "twice",
}


def resident() -> int:
    """Return this process's resident bytes."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def use_core(path: str) -> None:
    """Embed and generate with the core alone."""
    from grit_integrations import Decoding, GritLM

    KEPT.append(GritLM.from_pretrained(path, dtype="float32"))
    KEPT[-1].embed_documents(["a text"])
    KEPT[-1].generate("a question", decoding=Decoding(max_new_tokens=4))


def use_adapters(path: str) -> None:
    """Embed and generate through each adapter; each is given the checkpoint's name and loads through the sharing."""
    from grit_integrations import GritLM
    from grit_integrations.chroma import GritEmbeddingFunction
    from grit_integrations.langchain import ChatGrit, GritEmbeddings
    from grit_integrations.langchain import GritLLM as LangChainLLM
    from grit_integrations.llama_index import GritEmbedding
    from grit_integrations.llama_index import GritLLM as LlamaIndexLLM

    embeddings = GritEmbeddings(model=path, dtype="float32")
    chat = ChatGrit(model=path, dtype="float32", max_tokens=4)
    llm = LangChainLLM(model=path, dtype="float32", max_tokens=4)
    embedding = GritEmbedding(path, dtype="float32")
    completion = LlamaIndexLLM(path, dtype="float32", max_new_tokens=4)
    function = GritEmbeddingFunction(GritLM(path, dtype="float32"))
    KEPT.extend([embeddings, chat, llm, embedding, completion, function])
    embeddings.embed_query("a text")
    chat.invoke("a question")
    llm.invoke("a question")
    embedding.get_text_embedding("a text")
    completion.complete("a question")
    function(["a text"])


def use_twice(path: str) -> None:
    """Load as separate libraries do: one model object to embed, another to generate."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    embedder = AutoModel.from_pretrained(path, dtype=torch.float32)
    generator = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    KEPT.extend([embedder, generator])
    ids = torch.tensor([[1, 5, 6]])
    with torch.inference_mode():
        embedder(input_ids=ids)
        generator.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)


KEPT: list[Any] = []
USES = {"core": use_core, "adapters": use_adapters, "twice": use_twice}


def warm_up() -> None:
    """Import what any arm imports, so that the difference is what loading and using the model takes."""
    import langchain_core.language_models
    import llama_index.core
    import transformers.models.mistral.modeling_mistral  # noqa: F401

    import grit_integrations.chroma
    import grit_integrations.langchain
    import grit_integrations.llama_index
    import grit_integrations.model  # noqa: F401

    del langchain_core, llama_index


def measure(arm: str, path: str) -> None:
    """Run one arm in this process and print its bytes."""
    warm_up()
    before = resident()
    USES[arm](path)
    print(json.dumps({"before": before, "after": resident()}))


def main() -> None:
    """Run every arm in a process of its own, print, save, draw."""
    results: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as directory:
        path = random_230m(Path(directory))
        parameters = sum(file.stat().st_size for file in path.glob("*.safetensors"))
        for name, arm in ARMS.items():
            command = [sys.executable, __file__, arm, str(path)]
            # Freed buffers would blur the comparison: let the allocator give them back at once.
            environ = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
            output = subprocess.run(command, check=True, capture_output=True, text=True, env=environ).stdout
            figures = json.loads(output.strip().splitlines()[-1])
            results[name] = figures["after"] - figures["before"]
    report(results, parameters)
    save("memory", {"added_bytes": results, "parameter_bytes": parameters, "environment": environment()})
    plot(results, parameters)


def report(results: dict[str, int], parameters: int) -> None:
    """Print the table that docs/benchmarks.md shows."""
    one = results["one GritLM, no framework"]
    print(f"random Mistral, 230M parameters, float32; {environment()}")
    print("| arm | memory added | against one load |")
    print("|---|---|---|")
    for name, added in results.items():
        print(f"| {name} | {added / 1e6:,.0f} MB | {added / one:.2f} |")
    print(f"| limit: the parameters | {parameters / 1e6:,.0f} MB | {parameters / one:.2f} |")


def plot(results: dict[str, int], parameters: int) -> None:
    """Draw added memory by arm."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 2.4))
    colours = ["#2563eb", "#2563eb", "#9ca3af"]
    axes.barh([name.replace(" (", "\n(") for name in results], [v / 1e6 for v in results.values()], color=colours)
    axes.axvline(parameters / 1e6, color="#dc2626", linestyle="--", label="the parameters")
    axes.invert_yaxis()
    axes.set_xlabel("MB of memory added by loading and using the model")
    axes.legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(RESULTS / "memory.png", dpi=150)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measure(sys.argv[1], sys.argv[2])
    else:
        main()
