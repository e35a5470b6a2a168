"""The ways of a text through LangChain's adapters."""

from __future__ import annotations

from typing import Any

from doors import Door, Pair
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from grit_integrations import GritLM
from grit_integrations.langchain import (
    ChatGrit,
    GritEmbeddings,
    GritLLM,
    GritRAGMiddleware,
    GritReranker,
    GritRetriever,
)
from grit_integrations.options import CACHINGS


def _pages(pair: Pair) -> list[Document]:
    return [Document(text, metadata={"title": text, "source": text}) for text in pair]


def _thread(pair: Pair) -> list[Any]:
    call = {"name": "search", "args": {"query": pair[0]}, "id": "1"}
    asked = [
        SystemMessage(pair[0]),
        HumanMessage([{"type": "text", "text": pair[0]}]),
        AIMessage("", tool_calls=[call]),
    ]
    return [*asked, ToolMessage(pair[1], tool_call_id="1", artifact=_pages(pair)), HumanMessage("".join(pair))]


def _chat(grit: GritLM, **options: Any) -> ChatGrit:
    return ChatGrit(model=grit, max_tokens=1, **options)


def _llm(grit: GritLM) -> GritLLM:
    return GritLLM(model=grit, max_tokens=1)


def _said(way: str) -> Door:
    def say(grit: GritLM, pair: Pair) -> list[Any]:
        plain = [getattr(_chat(grit, caching=mode), way)(_thread(pair), documents=_pages(pair)) for mode in CACHINGS]
        return [*plain, getattr(_chat(grit), way)(pair[0], documents=list(pair), quote=True)]

    return say


def _completed(way: str) -> Door:
    return lambda grit, pair: getattr(_llm(grit), way)("".join(pair), documents=list(pair))


def _embeddings(way: str) -> Door:
    def embed(grit: GritLM, pair: Pair) -> Any:
        embeddings = GritEmbeddings(model=grit, query_instruction=pair[1], document_instruction=pair[1])
        return getattr(embeddings, way)([pair[0]] if way.endswith("documents") else pair[0])

    return embed


def _retriever(grit: GritLM, pair: Pair) -> GritRetriever:
    return GritRetriever.from_documents(_pages(pair)[:1], model=grit)


def _reranker(way: str) -> Door:
    return lambda grit, pair: getattr(GritReranker(model=grit), way)(_pages(pair)[1:], pair[0])


def _agent(way: str) -> Door:
    def act(grit: GritLM, pair: Pair) -> Any:
        middleware = GritRAGMiddleware(_retriever(grit, pair))
        agent = create_agent(_chat(grit), tools=[], system_prompt=pair[0], middleware=[middleware])
        return getattr(agent, way)({"messages": [HumanMessage("".join(pair))]})

    return act


LANGCHAIN: dict[str, Door] = {
    "ChatGrit.get_num_tokens_from_messages": lambda grit, pair: _chat(grit).get_num_tokens_from_messages(_thread(pair)),
    "ChatGrit.get_token_ids": lambda grit, pair: _chat(grit).get_token_ids(pair[0]),
    "ChatGrit._generate": _said("invoke"),
    "ChatGrit._agenerate": _said("ainvoke"),
    "ChatGrit._stream": _said("stream"),
    "ChatGrit._astream": _said("astream"),
    "ChatGrit._agenerate_with_cache": _said("ainvoke"),
    "GritEmbeddings.check_documents": _embeddings("check_documents"),
    **{
        f"GritEmbeddings.{way}": _embeddings(way)
        for way in ("embed_documents", "embed_query", "aembed_documents", "aembed_query")
    },
    "GritLLM.generate": lambda grit, pair: _llm(grit).generate(["".join(pair)]),
    "GritLLM.agenerate": lambda grit, pair: _llm(grit).agenerate(["".join(pair)]),
    "GritLLM.batch": lambda grit, pair: _llm(grit).batch(["".join(pair)]),
    "GritLLM.abatch": lambda grit, pair: _llm(grit).abatch(["".join(pair)]),
    "GritLLM._generate": _completed("invoke"),
    "GritLLM._agenerate": _completed("ainvoke"),
    "GritLLM._stream": _completed("stream"),
    "GritLLM._astream": _completed("astream"),
    "GritLLM.get_token_ids": lambda grit, pair: _llm(grit).get_token_ids(pair[0]),
    "GritRAGMiddleware.before_model": _agent("invoke"),
    "GritRAGMiddleware.abefore_model": _agent("ainvoke"),
    "GritRAGMiddleware.wrap_model_call": _agent("invoke"),
    "GritRAGMiddleware.awrap_model_call": _agent("ainvoke"),
    **{
        f"GritReranker.{way}": _reranker(way)
        for way in ("compress_documents", "acompress_documents", "rerank", "arerank")
    },
    "GritRetriever.from_documents": _retriever,
    "GritRetriever.add_documents": lambda grit, pair: _retriever(grit, pair).add_documents(_pages(pair)[1:]),
    "GritRetriever.aadd_documents": lambda grit, pair: _retriever(grit, pair).aadd_documents(_pages(pair)[1:]),
    "GritRetriever._get_relevant_documents": lambda grit, pair: _retriever(grit, pair).invoke(pair[1]),
    "GritRetriever._aget_relevant_documents": lambda grit, pair: _retriever(grit, pair).ainvoke(pair[1]),
}
