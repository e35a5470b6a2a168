"""The doors through which adapters reach the core: few modules, and of each only what is named here."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

import grit_integrations

ROOT = Path(grit_integrations.__file__).parent
TWINS = ("langchain", "llama_index")

# What adapters may import of the core, for types alone included.
ALLOWED = {
    "": {"__version__"},
    "model": {"GenerationOptions", "GritLM", "PromptOptions"},
    "results": {"CacheReport", "Generation", "GenerationChunk", "Quote", "Ranked", "TokenLogprob", "Usage", "Vectors"},
    "options": {
        *("Decoding", "Reranking"),
        *("CANDIDATES", "MODES", "Caching", "check_caching", "check_cosine", "check_prefer_cached", "check_top_n"),
    },
    "option_sets": {"Options"},
    "option_values": {"check", "is_count", "is_number"},
    "errors": {name for name in vars(grit_integrations.errors) if name.endswith("Error")},
    "loading.sources": {"BUNDLED_NAME", "default_device", "default_source", "is_source_named"},
    "engine.streaming": {"GenerationStream"},
    "prompts.formats": {"Message", "Messages", "Role", "as_list", "check_characters", "check_text"},
    "prompts.embedding": {"embedding_inputs"},
    "prompts.requests": {"Prompt"},
}


def imported(room: str) -> dict[str, set[str]]:
    """Return what a room's files import of the rest of the package: names by module."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for file in (ROOT / room).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("grit_integrations") for alias in node.names), file
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "grit_integrations":
                module = (node.module or "").removeprefix("grit_integrations").removeprefix(".")
                if module.split(".")[0] != room:
                    found[module] |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("room", TWINS)
def test_adapters_use_few_doors(room: str) -> None:
    found = imported(room)
    assert found.keys() <= ALLOWED.keys()
    assert {module: names - ALLOWED[module] for module, names in found.items() if names - ALLOWED[module]} == {}


def test_no_door_stands_open_for_nobody() -> None:
    used: defaultdict[str, set[str]] = defaultdict(set)
    for room in TWINS:
        for module, names in imported(room).items():
            used[module] |= names
    unused = {module: names - used[module] for module, names in ALLOWED.items() if module != "errors"}
    assert not any(unused.values()), unused


def test_twins_have_the_same_rooms() -> None:
    """What one framework has and the other lacks is named here, so that it is on purpose."""
    files = [{file.name for file in (ROOT / room).glob("*.py")} for room in TWINS]
    assert files[0] - files[1] == {
        *("chat.py", "errors.py", "middleware.py"),
        *("additions.py", "inside.py", "known_stores.py", "scores.py", "search.py"),  # of LangChain's vector stores
    }
    assert files[1] - files[0] == {
        *("chat_engine.py", "query_engine.py", "settings.py", "synthesizer.py"),
        *("arguments.py", "events.py", "vector_cache.py"),
    }


def test_no_two_types_share_a_name_but_the_twins_own() -> None:
    homes: defaultdict[str, set[str]] = defaultdict(set)
    for file in sorted(ROOT.rglob("*.py")):
        room = file.relative_to(ROOT).parts[0]
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].add(room)
    shared = {name for name, rooms in homes.items() if len(rooms) > 1 and rooms & {*TWINS, "testing", "chroma.py"}}
    assert shared == {"GritLLM", "GritRetriever"}
