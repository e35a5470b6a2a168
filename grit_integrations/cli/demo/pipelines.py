"""One pipeline for each framework, as an application would write it: retrieve, rerank, answer. Both read one index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol

from grit_integrations.errors import MissingExtraError
from grit_integrations.ingest import Hit, PassageIndex
from grit_integrations.model import GritLM
from grit_integrations.options import CANDIDATES, Quoting
from grit_integrations.results import Quote

try:
    from langchain_core.documents import Document
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "langchain_core":
        raise
    raise MissingExtraError("langchain-core", "all") from None

if TYPE_CHECKING:
    from langchain_core.messages import AIMessageChunk
    from langchain_core.runnables import Runnable

PASSAGES = 4  # of the candidates that are retrieved, those that the model judges best and answers from


class Pipeline(Protocol):
    """One framework's way to answer: passages first, then text as it is generated, then what of it is quoted."""

    def __call__(self, question: str) -> Iterator[list[Hit] | str | Quote]:
        """Yield the passages, then pieces of the answer, then its quotes."""


def langchain_pipeline(
    index: PassageIndex, *, max_tokens: int, quoting: Quoting | None
) -> tuple[Pipeline, dict[str, GritLM]]:
    """Return an LCEL chain over Chroma as a `Pipeline`, and the models behind its parts."""
    from langchain_core.runnables import RunnablePassthrough, chain

    from grit_integrations.langchain import ChatGrit, GritEmbeddings, GritReranker

    vectors = index.vectors  # langchain_chroma.Chroma(embedding_function=GritEmbeddings(...))
    reranker = GritReranker(model=index.model, top_n=PASSAGES)
    chat = ChatGrit(model=index.model, max_tokens=max_tokens, quote=quoting)

    @chain
    def retriever(inputs: dict[str, str]) -> Sequence[Document]:
        found = vectors.similarity_search(inputs["question"], k=CANDIDATES)
        return reranker.compress_documents(found, inputs["question"])

    @chain
    def write(inputs: dict[str, Any]) -> Runnable[Any, Any]:
        return itemgetter("question") | chat.bind(documents=inputs["documents"])

    rag = RunnablePassthrough.assign(documents=retriever) | RunnablePassthrough.assign(answer=write)

    def answer(question: str) -> Iterator[list[Hit] | str | Quote]:
        for piece in rag.stream({"question": question}):
            if "documents" in piece:
                yield [Hit(document, document.metadata["relevance_score"]) for document in piece["documents"]]
            if message := piece.get("answer"):
                yield message.text
                yield from _cited(message)

    embeddings = vectors.embeddings
    assert isinstance(embeddings, GritEmbeddings)
    return answer, {"GritEmbeddings": embeddings.grit, "GritReranker": reranker.grit, "ChatGrit": chat.grit}


def _cited(message: AIMessageChunk) -> Iterator[Quote]:
    """Yield what a message cites; its standard citations say which of the documents, and where in it."""
    for block in message.content_blocks:
        annotations: Any = block.get("annotations", ())
        for citation in annotations:
            place = citation["extras"]
            yield Quote(citation["cited_text"], place["document"], place["start"], place["end"], place["score"])


def llama_index_pipeline(
    index: PassageIndex, *, max_tokens: int, quoting: Quoting | None
) -> tuple[Pipeline, dict[str, GritLM]]:
    """Return a LlamaIndex query engine over the same collection as a `Pipeline`, and the models behind its parts."""
    from grit_integrations.llama_index import (  # isort: skip  # names the extra
        GritEmbedding,
        GritLLM,
        GritRerank,
        GritSynthesizer,
    )

    from llama_index.core import VectorStoreIndex
    from llama_index.core.base.response.schema import StreamingResponse
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.query_engine import RetrieverQueryEngine
    from llama_index.core.schema import NodeWithScore, QueryBundle

    try:
        from llama_index.vector_stores.chroma import ChromaVectorStore
    except ModuleNotFoundError as error:
        raise MissingExtraError("llama-index-vector-stores-chroma", "all") from error

    embedding = GritEmbedding(index.model, query_instruction=index.query_instruction)
    rerank = GritRerank(index.model, top_n=PASSAGES)
    llm = GritLLM(index.model, max_new_tokens=max_tokens, quote=quoting or False)
    vectors = VectorStoreIndex.from_vector_store(
        ChromaVectorStore(chroma_collection=index.collection), embed_model=embedding
    )

    class TextOnly(BaseNodePostprocessor):
        """Hide paths and titles: they say nothing to a small model."""

        def _postprocess_nodes(self, nodes: list[NodeWithScore], _: QueryBundle | None = None) -> list[NodeWithScore]:
            for node in nodes:
                node.node.excluded_llm_metadata_keys = list(node.metadata)
            return nodes

    engine = RetrieverQueryEngine(
        vectors.as_retriever(similarity_top_k=CANDIDATES),
        GritSynthesizer(llm, streaming=True, query_instruction=index.query_instruction),
        node_postprocessors=[TextOnly(), rerank],
    )

    def answer(question: str) -> Iterator[list[Hit] | str | Quote]:
        query = QueryBundle(question)
        nodes = engine.retrieve(query)
        yield [Hit(Document(node.text, metadata=node.metadata), node.score or 0.0) for node in nodes]
        response = engine.synthesize(query, nodes)
        assert isinstance(response, StreamingResponse)
        yield from response.response_gen or ()
        numbers = {node.node_id: number for number, node in enumerate(nodes)}
        for quote in (response.metadata or {}).get("quotes", ()):
            yield Quote(quote["text"], numbers[quote["node_id"]], quote["start"], quote["end"], quote["score"])

    return answer, {"GritEmbedding": embedding.grit, "GritRerank": rerank.grit, "GritLLM": llm.grit}
