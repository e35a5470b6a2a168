"""The package as a whole: what importing it costs, and that its arrows point downward."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import grit_integrations

ROOT = Path(grit_integrations.__file__).parent

# A room may import from rooms with a smaller number only, or from inside itself.
FLOORS = {
    "errors": 0,
    "boundaries": 1,
    "generation": 1,
    "sentences": 1,
    "prompts": 1,
    "finding": 1,
    "channel": 1,
    "waiting": 1,
    "layout": 2,
    "kv": 2,
    "tokenization": 2,
    "planning": 3,
    "span_graph": 3,
    "checkpoint": 3,
    "attention": 3,
    "detokenization": 3,
    "sampling": 3,
    "spans": 4,
    "weights": 4,
    "encoder": 5,
    "constraints": 5,
    "quoting": 5,
    "tree": 5,
    "span_search": 6,
    "sentence_search": 6,
    "inputs": 6,
    "prefill": 6,
    "tails": 6,
    "verdicts": 7,
    "decoder": 7,
    "scheduler": 8,
    "engine": 9,
    "caching": 10,
    "streaming": 10,
    "handle": 10,
    "reranking": 11,
    "model": 12,
    "training": 13,
    "evaluation": 14,
    "chroma": 13,
    "langchain": 14,
    "llama_index": 14,
    "testing": 14,
    "ingest": 15,
    "cli": 16,
}
FRAMEWORKS = ("langchain", "langchain_core", "llama_index", "chromadb")


def imports(file: Path) -> set[str]:
    """Return every module name that a file imports, wherever the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def room_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


FILES = [file for file in sorted(ROOT.rglob("*.py")) if file != ROOT / "__init__.py"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_arrows_point_downward(file: Path) -> None:
    room = room_of(file)
    for module in imports(file):
        if not module.startswith("grit_integrations."):
            continue
        other = module.split(".")[1]
        assert other == room or FLOORS[other] < FLOORS[room], f"{room} imports {other}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_core_knows_no_framework(file: Path) -> None:
    if FLOORS[room_of(file)] >= FLOORS["training"]:
        return
    assert not {module for module in imports(file) if module.split(".")[0] in FRAMEWORKS}


def test_adapters_never_import_each_other() -> None:
    for room, other in (("langchain", "llama_index"), ("llama_index", "langchain")):
        for file in (ROOT / room).rglob("*.py"):
            assert not any(module.startswith(f"grit_integrations.{other}") for module in imports(file))


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return {name.split(".")[0] for name in output.stdout.split()}


def test_importing_the_package_loads_neither_torch_nor_a_framework() -> None:
    assert not modules_after("import grit_integrations") & {"torch", "transformers", "numpy", *FRAMEWORKS}
    light = "from grit_integrations import Decoding, GritError, Message, Usage"
    assert not modules_after(light) & {"torch", "transformers", *FRAMEWORKS}


def test_every_public_name_is_there_and_no_other_is() -> None:
    for name in grit_integrations.__all__:
        assert getattr(grit_integrations, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing_like_it"):
        grit_integrations.nothing_like_it  # noqa: B018
