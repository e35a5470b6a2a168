"""The ways of a text through `GritLM`."""

from __future__ import annotations

from typing import Any

from doors import Door, Pair

from grit_integrations import Decoding, GritLM, Quoting
from grit_integrations.options import CACHINGS, METHODS, ORDERS, QUOTE_METHODS

ONE = Decoding(max_new_tokens=1)


def _conversation(pair: Pair) -> list[dict[str, str]]:
    earlier = [{"role": role, "content": pair[0]} for role in ("system", "user", "assistant")]
    return [*earlier, {"role": "user", "content": pair[1]}]


def _asked(way: str) -> Door:
    """Documents, a conversation, known documents and an instruction, in every mode."""

    def ask(grit: GritLM, pair: Pair) -> list[Any]:
        call, given = getattr(grit, way), []
        for caching in CACHINGS:
            options = {"caching": caching, "decoding": ONE}
            given += [call(_conversation(pair), list(pair), query_instruction=pair[0], **options)]
            given += [call("".join(pair), known_documents=[pair[0]], **options)]
        return given

    return ask


def _quoted(way: str) -> Door:
    def quote(grit: GritLM, pair: Pair) -> list[Any]:
        how = [Quoting(method=method, longest=4) for method in QUOTE_METHODS] + [Quoting(sentences=1)]
        options = [Decoding(max_new_tokens=1, quote=quoting) for quoting in how]
        return [getattr(grit, way)(pair[0], list(pair), decoding=decoding) for decoding in options]

    return quote


def _reranked(way: str) -> Door:
    def rerank(grit: GritLM, pair: Pair) -> list[Any]:
        call = getattr(grit, way)
        listed = call(pair[0], [*pair], method="listwise", instruction=pair[0])
        ways = [(method, order) for method in METHODS for order in ORDERS]
        return [
            listed,
            *(call(pair[0], [pair[1]], method=way, order=order, instruction=pair[0]) for way, order in ways),
        ]

    return rerank


def _remembered(grit: GritLM, pair: Pair) -> None:
    grit.remember_documents([pair[0], "".join(pair)])
    try:
        for caching in CACHINGS:
            grit.generate("".join(pair), decoding=ONE, caching=caching)
    finally:
        grit._loaded().recent._texts.clear()


def _both(*doors: Door) -> Door:
    return lambda grit, pair: [result for door in doors for result in door(grit, pair)]


def _cached(grit: GritLM, pair: Pair) -> None:
    for caching in CACHINGS:
        grit.with_options(caching=caching).cache_documents(list(pair))


CORE: dict[str, Door] = {
    "core.GritLM.embed_queries": lambda grit, pair: grit.embed_queries([pair[0]], instruction=pair[1]),
    "core.GritLM.embed_documents": lambda grit, pair: grit.embed_documents([pair[0]], instruction=pair[1]),
    "core.GritLM.aembed_queries": lambda grit, pair: grit.aembed_queries([pair[0]], instruction=pair[1]),
    "core.GritLM.aembed_documents": lambda grit, pair: grit.aembed_documents([pair[0]], instruction=pair[1]),
    "core.GritLM.prompt": lambda grit, pair: grit.generate(grit.prompt(pair[0], list(pair)), decoding=ONE),
    "core.GritLM.generate": _both(_asked("generate"), _quoted("generate")),
    "core.GritLM.agenerate": _both(_asked("agenerate"), _quoted("agenerate")),
    "core.GritLM.stream": _both(_asked("stream"), _quoted("stream")),
    "core.GritLM.astream": _both(_asked("astream"), _quoted("astream")),
    "core.GritLM.rerank": _reranked("rerank"),
    "core.GritLM.arerank": _reranked("arerank"),
    "core.GritLM.remember_documents": _remembered,
    "core.GritLM.prefetch": lambda grit, pair: grit.prefetch(list(pair)),
    "core.GritLM.stored": lambda grit, pair: grit.stored(list(pair)),
    "core.GritLM.prefer_stored": lambda grit, pair: grit.prefer_stored(list(pair), [0.5, 0.4], margin=0.2),
    "core.GritLM.cache_documents": _cached,
    "core.GritLM.count_tokens": lambda grit, pair: grit.count_tokens(pair[0]),
    "core.GritLM.tokenize": lambda grit, pair: grit.tokenize(pair[0]),
    "core.GritLM.count_message_tokens": lambda grit, pair: grit.count_message_tokens(_conversation(pair), list(pair)),
}
