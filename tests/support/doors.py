"""Every public door that takes text, found by looking at the public classes, and how to go through one to its end."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from grit_integrations import GritLM

Pair = tuple[str, str]  # two pieces of text, which stand next to each other where a door takes several
Door = Callable[[GritLM, Pair], Any]

MODULES = (
    "grit_integrations",
    "grit_integrations.langchain",
    "grit_integrations.llama_index",
    "grit_integrations.chroma",
    "grit_integrations.ingest.passage_index",
)

# Parameters that bring text to the model, whoever wrote it.
TEXT = frozenset(
    """
    args chat_history condense_prompt document_instruction documents input inputs instruction message messages nodes
    passages prompt prompts query query_bundle query_instruction query_str request state system_prompt
    text text_chunks text_instruction texts
    """.split()  # noqa: SIM905
)
# Parameters that do not: plain values, keys, callbacks, and objects that are doors themselves.
OTHER = frozenset(
    """
    _self additional_source_nodes after block caching cachings callback_manager callbacks changes client
    collection config context data decoding deep disk_bytes files handler ids index k key keys kwargs
    llm load margin max_file_bytes memory model name namespace new_config node_postprocessors old_config on_progress
    options output_cls overrides passage_vectors path paths persist prefer_cached prefill progress
    response_kwargs return_exceptions response_synthesizer retriever run_manager runtime scores settings skip_condense
    source speeds stop streaming timeout tokens tools top_k top_n truncate update value vectorstore
    verbose wanted where
    """.split()  # noqa: SIM905
)


def public_doors() -> Iterator[tuple[str, list[str]]]:
    """Give every public callable with the names of its parameters; a framework's hooks that we fill are public too."""
    for module_name in MODULES:
        module = import_module(module_name)
        short = module_name.removeprefix("grit_integrations").lstrip(".").removeprefix("ingest.") or "core"
        for name in _public_names(module):
            found = getattr(module, name)
            if inspect.isclass(found) and not issubclass(found, Exception):
                for method, function in _own_methods(found):
                    yield f"{short}.{name}.{method}", _parameters(function)
            elif inspect.isfunction(found):
                yield f"{short}.{name}", _parameters(found)


def _public_names(module: Any) -> list[str]:
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    return [name for name in getattr(module, "__all__", own) if not name.startswith("_")]


def _own_methods(kind: type) -> Iterator[tuple[str, Any]]:
    theirs = [base for base in kind.__mro__ if not base.__module__.startswith("grit_integrations")]
    seen: set[str] = set()
    for base in kind.__mro__:
        for name, value in vars(base).items() if base not in theirs else ():
            function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
            hook = any(hasattr(other, name) for other in theirs if other is not object)
            public = not name.startswith("_") or name == "__call__" or (hook and not name.startswith("__"))
            if name not in seen and public and inspect.isfunction(function):
                seen.add(name)
                yield name, function


def _parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def through(door: Door, grit: GritLM, pair: Pair) -> None:
    """Go through a door to the end of what it gives: awaited, and streamed to the last piece."""
    given = door(grit, pair)
    for result in given if isinstance(given, list) else [given]:
        if inspect.isawaitable(result) or hasattr(result, "__aiter__"):
            asyncio.run(_to_the_end(result))
        elif isinstance(result, Iterator):
            list(result)


async def _to_the_end(result: Any) -> None:
    value = await result if inspect.isawaitable(result) else result
    if hasattr(value, "__aiter__"):
        _ = [piece async for piece in value]
