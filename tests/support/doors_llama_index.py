"""The ways of a text through LlamaIndex's components."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from doors import Door, Pair
from llama_index.core.llms import ChatMessage
from llama_index.core.schema import QueryBundle, TextNode
from llama_index_helpers import Fixed, index_of, nodes_of

from grit_integrations import GritLM
from grit_integrations.llama_index import (
    GritChatEngine,
    GritEmbedding,
    GritLLM,
    GritQueryEngine,
    GritRerank,
    GritRetriever,
    GritSynthesizer,
    install,
)

CHATS = ("chat", "achat", "stream_chat", "astream_chat")
COMPLETIONS = ("complete", "acomplete", "stream_complete", "astream_complete")


def _llm(grit: GritLM, pair: Pair) -> GritLLM:
    return GritLLM(grit, max_new_tokens=1, system_prompt=pair[0])


def _completed(way: str) -> Door:
    return lambda grit, pair: getattr(_llm(grit, pair), way)("".join(pair), documents=list(pair))


def _said(way: str) -> Door:
    def say(grit: GritLM, pair: Pair) -> Any:
        turns = [(role, pair[0]) for role in ("system", "user", "assistant", "tool")]
        messages = [ChatMessage(role=role, content=text) for role, text in [*turns, ("user", pair[1])]]
        return getattr(_llm(grit, pair), way)(messages, documents=list(pair))

    return say


def _prepared(grit: GritLM, pair: Pair) -> Any:
    llm = _llm(grit, pair)
    return llm.complete(pair[0], documents=llm.prepare(pair[0], documents=list(pair)))


def _embedding(way: str) -> Door:
    def embed(grit: GritLM, pair: Pair) -> Any:
        embedding = GritEmbedding(grit, query_instruction=pair[1], text_instruction=pair[1])
        return getattr(embedding, way)([pair[0]] if way.endswith("batch") else pair[0])

    return embed


def _history(pair: Pair) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=pair[0]), ChatMessage(role="assistant", content=pair[1])]


def _synthesized(way: str) -> Door:
    def synthesize(grit: GritLM, pair: Pair) -> Any:
        llm = _llm(grit, pair)
        synthesizer = GritSynthesizer(llm, chat_history=_history(pair), query_instruction=pair[0])
        return getattr(synthesizer, way)(pair[1], nodes_of(*pair) if way.endswith("synthesize") else list(pair))

    return synthesize


def _engine_said(way: str) -> Door:
    def say(grit: GritLM, pair: Pair) -> Any:
        options: Any = {"chat_history": _history(pair), "system_prompt": pair[0], "query_instruction": pair[1]}
        engine = GritChatEngine.from_defaults(Fixed(nodes_of(*pair)), _llm(grit, pair), **options)
        return getattr(engine, way)(pair[1])

    return say


def _index_said(grit: GritLM, pair: Pair) -> Any:
    engine = GritChatEngine.from_index(index_of(grit, [pair[0]]), grit, system_prompt=pair[1], max_new_tokens=1)
    return engine.chat(pair[1])


def _queried(grit: GritLM, pair: Pair) -> Any:
    retriever = Fixed(nodes_of(*pair))
    return GritQueryEngine.from_args(retriever, _llm(grit, pair), query_instruction=pair[0]).query("".join(pair))


def _index_queried(grit: GritLM, pair: Pair) -> Any:
    index = index_of(grit, [pair[0]])
    return GritQueryEngine.from_index(index, grit, query_instruction=pair[1], max_new_tokens=1).aquery(pair[1])


def _reranked(way: str) -> Door:
    return lambda grit, pair: getattr(GritRerank(grit), way)(nodes_of(pair[0]), QueryBundle(pair[1]))


def _retrieved(way: str) -> Door:
    return lambda grit, pair: getattr(GritRetriever(index_of(grit, [pair[0]]), grit), way)(pair[1])


def _installed(grit: GritLM, pair: Pair) -> Any:
    settings = SimpleNamespace()
    install(grit, settings=settings, query_instruction=pair[0], text_instruction=pair[0], system_prompt=pair[0])
    return [settings.embed_model.aget_query_embedding(pair[1]), settings.llm.acomplete(pair[1], max_new_tokens=1)]


LLAMA_INDEX: dict[str, Door] = {
    "GritChatEngine.from_defaults": _engine_said("chat"),
    "GritChatEngine.from_index": _index_said,
    "GritChatEngine._run_c3": _engine_said("chat"),
    "GritChatEngine._arun_c3": _engine_said("achat"),
    "GritChatEngine._get_response_synthesizer": _engine_said("achat"),
    "GritEmbedding.__call__": lambda grit, pair: GritEmbedding(grit)([TextNode(text="".join(pair))]),
    "GritEmbedding.acall": lambda grit, pair: GritEmbedding(grit).acall([TextNode(text="".join(pair))]),
    "GritEmbedding._get_query_embedding": _embedding("get_query_embedding"),
    "GritEmbedding._aget_query_embedding": _embedding("aget_query_embedding"),
    "GritEmbedding._get_text_embedding": _embedding("get_text_embedding"),
    "GritEmbedding._aget_text_embedding": _embedding("aget_text_embedding"),
    "GritEmbedding._get_text_embeddings": _embedding("get_text_embedding_batch"),
    "GritEmbedding._aget_text_embeddings": _embedding("aget_text_embedding_batch"),
    "GritLLM.prepare": _prepared,
    **{f"GritLLM.{way}": _said(way) for way in CHATS},
    **{f"GritLLM.{way}": _completed(way) for way in COMPLETIONS},
    "GritQueryEngine.from_args": _queried,
    "GritQueryEngine._query": _queried,
    "GritQueryEngine.from_index": _index_queried,
    "GritQueryEngine._aquery": _index_queried,
    "GritRerank._postprocess_nodes": _reranked("postprocess_nodes"),
    "GritRerank._apostprocess_nodes": _reranked("apostprocess_nodes"),
    "GritRetriever._retrieve": _retrieved("retrieve"),
    "GritRetriever._aretrieve": _retrieved("aretrieve"),
    **{
        f"GritSynthesizer.{way}": _synthesized(way)
        for way in ("synthesize", "asynthesize", "get_response", "aget_response")
    },
    "GritSynthesizer._update_prompts": _synthesized("get_response"),
    "install": _installed,
}
