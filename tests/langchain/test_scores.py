"""A score belongs to a query: what several queries found is one document, and a prompt has it once."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.multi_query import MultiQueryRetriever
from langchain_core.documents import Document
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_helpers import documents

from grit_integrations import GritLM
from grit_integrations.langchain import GritEmbeddings, GritReranker, GritRetriever
from grit_integrations.langchain.scores import scored

QUERIES = "What organ moves blood?\nWhat does the heart do?\nHow does blood flow?"


def retrievers(grit: GritLM) -> dict[str, Any]:
    store = InMemoryVectorStore(GritEmbeddings(model=grit))
    store.add_documents(documents("several queries"))
    plain, reranker = GritRetriever(vectorstore=store, k=2), GritReranker(model=grit)
    return {
        "plain": plain,
        "reranking": GritRetriever(vectorstore=store, k=2, reranker=reranker),
        "wrapping": GritRetriever(retriever=plain),
        "compressing": ContextualCompressionRetriever(base_compressor=reranker, base_retriever=store.as_retriever()),
    }


@pytest.mark.parametrize("kind", ["plain", "reranking", "wrapping", "compressing"])
async def test_what_several_queries_find_comes_once(fresh: GritLM, kind: str) -> None:
    rephrasing = FakeListChatModel(responses=[QUERIES])  # as a larger model would; only the retriever is ours
    several = MultiQueryRetriever.from_llm(retriever=retrievers(fresh)[kind], llm=rephrasing)
    for found in (several.invoke("What pumps blood?"), await several.ainvoke("What pumps blood?")):
        texts = [document.page_content for document in found]
        assert 2 <= len(texts) == len(set(texts))
        assert all(type(document.metadata["relevance_score"]) is float for document in found)


def test_only_the_score_is_left_out_of_the_comparison() -> None:
    document = Document("The heart.", metadata={"page": 1}, id="h")
    half, most = scored(document, 0.5), scored(document, 0.9)
    assert half == most == document == half
    assert (half != most) is False
    assert half != scored(Document("The heart.", metadata={"page": 2}, id="h"), 0.5)
    assert half != scored(Document("Stars.", metadata={"page": 1}, id="h"), 0.5)
    assert [half] == [document] and most in [document]
    assert document.metadata == {"page": 1}, "the caller's document stays as it is"


def test_scored_metadata_are_a_plain_dict_to_everybody_else() -> None:
    document = scored(Document("The heart.", metadata={"page": 1}), 0.5)
    for again in (pickle.loads(pickle.dumps(document)), copy.deepcopy(document), document.model_copy(deep=True)):
        assert again.metadata["relevance_score"] == 0.5
        assert again == scored(again, 0.7)
    assert json.loads(json.dumps(document.metadata)) == {"page": 1, "relevance_score": 0.5}
    assert {**document.metadata} == {"page": 1, "relevance_score": 0.5}
    assert document.model_dump()["metadata"]["relevance_score"] == 0.5
