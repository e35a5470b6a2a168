"""Quoted answers in LlamaIndex: the framework's citations, and the place in the node that is quoted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.base.llms.types import CitationBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode
from pydantic import BaseModel

from grit_integrations import ContextOverflowError, Decoding, GritLM, OptionError, Quoting
from grit_integrations.llama_index import GritChatEngine, GritEmbedding, GritLLM, GritQueryEngine, GritSynthesizer

Fresh = Callable[..., GritLM]
TEXTS = ["The heart pumps blood through the vessels.", "The Moon orbits Earth in 27.3 days."]
QUESTION = "What pumps blood?"


def nodes() -> list[NodeWithScore]:
    """Nodes with metadata in front of, behind, and without any; one is blank."""
    made = [
        TextNode(text=f"  {TEXTS[0]} ", metadata={"file": "heart.txt", "said": "The heart"}),
        TextNode(text=" "),
        TextNode(text=TEXTS[1], metadata={"file": "moon.txt"}, text_template="{content} (from {metadata_str})"),
        TextNode(text=TEXTS[0]),
    ]
    return [NodeWithScore(node=node, score=0.5) for node in made]


def check(response: Any, scored: list[NodeWithScore]) -> None:
    """Everything that holds for every quoted response."""
    (quote,) = response.metadata["quotes"]
    (node,) = (each.node for each in scored if each.node.node_id == quote["node_id"])
    own = node.get_content(metadata_mode=MetadataMode.NONE)
    assert own[quote["start"] : quote["end"]] == quote["text"] == str(response) != ""


def test_completions_tell_their_quotes(tiny: GritLM) -> None:
    llm = GritLLM(tiny, max_new_tokens=8)
    for quote in (True, Quoting(method="spans"), Quoting(sentences=1)):
        answer = llm.complete(QUESTION, documents=TEXTS, quote=quote)
        (found,) = answer.additional_kwargs["quotes"]
        assert answer.text == found["text"] == TEXTS[found["document"]][found["start"] : found["end"]]
        last = list(llm.stream_complete(QUESTION, documents=TEXTS, quote=quote))[-1]
        assert last.text == answer.text and last.additional_kwargs == answer.additional_kwargs
    assert llm.complete(QUESTION, documents=TEXTS).additional_kwargs == {}


def test_chat_answers_hold_the_frameworks_citations(tiny: GritLM) -> None:
    llm = GritLLM(tiny, max_new_tokens=8, quote=True)
    asked = ChatMessage(content=QUESTION)
    message = llm.chat([asked], documents=TEXTS).message
    text, citation = message.blocks
    assert isinstance(citation, CitationBlock) and citation.cited_content.text == message.content == text.text
    place = citation.additional_location_info
    assert TEXTS[place["document"]][place["start"] : place["end"]] == message.content
    again = [asked, message, asked]
    plain = [asked, ChatMessage(role="assistant", content=message.content), asked]
    assert llm.chat(again, quote=False).message.content == llm.chat(plain, quote=False).message.content


def test_options_survive_a_round_trip(tiny: GritLM) -> None:
    llm = GritLLM(tiny, quote=Quoting(method="spans", longest=5))
    again = GritLLM.from_dict({**llm.to_dict(), "model": tiny.source})
    assert again.quote == llm.quote == Quoting(method="spans", longest=5)
    with pytest.raises(OptionError, match="without any document"):
        llm.complete(QUESTION)
    with pytest.raises(OptionError, match="quotable"):
        llm.complete(QUESTION, documents=TEXTS, quotable=[(0, 3)])


@pytest.mark.parametrize("method", ["tokens", "spans"])
def test_only_the_nodes_own_text_is_quoted(tiny: GritLM, method: Any) -> None:
    scored = nodes()
    for seed in range(6 if method == "tokens" else 1):
        sampling = {"temperature": 3.0, "seed": seed} if method == "tokens" else {}
        llm = GritLLM(tiny, max_new_tokens=6, quote=Quoting(method=method), **sampling)
        response = GritSynthesizer(llm).synthesize(QUESTION, scored)
        check(response, scored)
        assert response.source_nodes == scored and set(response.metadata) > {"quotes"}


def test_streams_and_async_tell_their_quotes_too(tiny: GritLM) -> None:
    scored, llm = nodes(), GritLLM(tiny, max_new_tokens=8, quote=True)
    wanted = GritSynthesizer(llm).synthesize(QUESTION, scored).metadata["quotes"]
    stream = GritSynthesizer(llm, streaming=True).synthesize(QUESTION, scored)
    assert "".join(stream.response_gen) == wanted[0]["text"] and stream.metadata["quotes"] == wanted

    async def run() -> None:
        response = await GritSynthesizer(llm).asynthesize(QUESTION, scored)
        check(response, scored)
        streamed = await GritSynthesizer(llm, streaming=True).asynthesize(QUESTION, scored)
        assert "".join([piece async for piece in streamed.async_response_gen()]) == wanted[0]["text"]
        assert streamed.metadata["quotes"] == wanted

    asyncio.run(run())


def test_a_query_engine_quotes_its_nodes(fresh: Fresh) -> None:
    grit = fresh(caching="doc")
    documents = [Document(text=text, metadata={"file": f"{n}.txt"}) for n, text in enumerate(TEXTS)]
    index = VectorStoreIndex.from_documents(documents, embed_model=GritEmbedding(grit))
    engine = GritQueryEngine.from_index(index, grit, top_k=2, max_new_tokens=8, quote=True)
    response = engine.query(QUESTION)
    check(response, response.source_nodes)
    assert GritQueryEngine.from_index(index, grit, max_new_tokens=8).query(QUESTION).metadata.keys() == {
        each.node.node_id for each in response.source_nodes
    }


def test_a_chat_engine_answers_in_the_nodes_words(fresh: Fresh) -> None:
    grit = fresh()
    index = VectorStoreIndex.from_documents([Document(text=text) for text in TEXTS], embed_model=GritEmbedding(grit))
    engine = GritChatEngine.from_index(index, grit, top_k=2, max_new_tokens=8, quote=True)
    for question in (QUESTION, "And then?"):
        answer = str(engine.chat(question))
        assert answer and any(answer in text for text in TEXTS)


def test_one_synthesis_may_quote(tiny: GritLM) -> None:
    scored = nodes()
    for options in ({"quote": True}, {"decoding": Decoding(max_new_tokens=8, quote=True)}):
        response = GritSynthesizer(GritLLM(tiny, max_new_tokens=8)).synthesize(QUESTION, scored, **options)
        check(response, scored)


class Title(BaseModel):
    title: str


def test_what_would_be_rewritten_is_not_quoted(tiny: GritLM) -> None:
    long = [NodeWithScore(node=TextNode(text="word " * 5000))]
    with pytest.raises(ContextOverflowError):
        GritSynthesizer(GritLLM(tiny, quote=True)).synthesize(QUESTION, long)
    with pytest.raises(OptionError, match="structured output"):
        GritSynthesizer(GritLLM(tiny, quote=True), output_cls=Title).synthesize(QUESTION, nodes())
