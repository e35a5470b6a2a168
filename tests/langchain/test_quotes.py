"""Quoted answers in LangChain: plain text to read, and a citation that names its document."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.output_parsers import StrOutputParser

from grit_integrations import GritLM, OptionError, Quoting
from grit_integrations.langchain import ChatGrit, GritLLM

HEART = Document(
    "The heart pumps blood through the vessels.",
    id="h1",
    metadata={"source": "https://example.org/heart", "title": "The heart", "page": 3},
)
MOON = Document("The Moon orbits Earth in 27.3 days.", metadata={"source": "moon.txt"})
DOCUMENTS: list[Any] = [" ", HEART, MOON, "Stars shine by fusion."]
TEXTS = [getattr(document, "page_content", document) for document in DOCUMENTS]


def check(message: AIMessage, documents: list[Any] = DOCUMENTS) -> dict[str, Any]:
    """Everything that holds for every quoted message; return its citation."""
    (block,) = message.content_blocks
    assert block["type"] == "text" and block["text"] == message.text != ""
    (citation,) = block["annotations"]
    assert citation["type"] == "citation"
    assert message.text[citation["start_index"] : citation["end_index"]] == citation["cited_text"] == message.text
    extras = citation["extras"]
    document = documents[extras["document"]]
    assert getattr(document, "page_content", document)[extras["start"] : extras["end"]] == message.text
    (quote,) = message.response_metadata["quotes"]
    assert {name: extras[name] for name in ("document", "start", "end", "score")}.items() <= quote.items()
    assert extras.get("within") == (quote["within"] and list(quote["within"]))
    return dict(citation)


@pytest.mark.parametrize("quote", [True, Quoting(method="spans"), Quoting(sentences=1, neighbours=2)])
def test_an_answer_is_a_citation(chat: ChatGrit, quote: Any) -> None:
    for question in ("What pumps blood?", "How long is a month?"):
        check(chat.invoke(question, documents=DOCUMENTS, quote=quote))


def test_a_citation_names_its_source(chat: ChatGrit) -> None:
    citation = check(chat.invoke("What?", documents=[HEART], quote=True), [HEART])
    assert citation["title"] == "The heart" and citation["url"] == "https://example.org/heart"
    assert citation["extras"]["id"] == "h1" and citation["extras"]["source"] == "https://example.org/heart"
    citation = check(chat.invoke("What?", documents=[MOON], quote=True), [MOON])
    assert citation["extras"]["source"] == "moon.txt" and not {"title", "url"} & set(citation)


def test_streamed_pieces_merge_into_the_same_message(chat: ChatGrit) -> None:
    for quote in (True, Quoting(method="spans")):
        options: dict[str, Any] = {"documents": DOCUMENTS, "quote": quote}
        chunks = list(chat.stream("What pumps blood?", **options))
        merged = chunks[0]
        for chunk in chunks[1:]:
            merged = merged + chunk
        whole = chat.invoke("What pumps blood?", **options)
        assert isinstance(merged, AIMessageChunk) and merged.text == whole.text
        assert check(merged)["extras"] == check(whole)["extras"]


def test_async_and_standard_output(tiny: GritLM) -> None:
    chat = ChatGrit(model=tiny, max_tokens=8, quote=True, output_version="v1")
    answer = asyncio.run(chat.ainvoke("What pumps blood?", documents=DOCUMENTS))
    assert check(answer) == check(chat.invoke("What pumps blood?", documents=DOCUMENTS))
    assert answer.content == answer.content_blocks
    merged = None
    for chunk in chat.stream("What pumps blood?", documents=DOCUMENTS):
        merged = chunk if merged is None else merged + chunk
    assert merged is not None and check(merged)["cited_text"] == answer.text


def test_a_chain_reads_the_text_and_a_conversation_goes_on(chat: ChatGrit) -> None:
    answer = chat.invoke("What pumps blood?", documents=DOCUMENTS, quote=True)
    chain = chat.bind(documents=DOCUMENTS, quote=True) | StrOutputParser()
    assert chain.invoke("What pumps blood?") == answer.text
    plain = [HumanMessage("What pumps blood?"), AIMessage(answer.text), HumanMessage("And then?")]
    again = [plain[0], answer, plain[2]]
    assert chat.invoke(again).text == chat.invoke(plain).text


def test_one_call_may_turn_quoting_off(tiny: GritLM) -> None:
    chat = ChatGrit(model=tiny, max_tokens=4, quote=True)
    free = chat.invoke("What?", documents=DOCUMENTS, quote=False)
    assert isinstance(free.content, str) and "quotes" not in free.response_metadata
    assert free.text == ChatGrit(model=tiny, max_tokens=4).invoke("What?", documents=DOCUMENTS).text


def test_nothing_to_quote_from_is_an_error(chat: ChatGrit, llm: GritLLM) -> None:
    for model in (chat, llm):
        with pytest.raises(OptionError, match="without any document"):
            model.invoke("What?", quote=True)
        with pytest.raises(OptionError, match="without any document"):
            model.invoke("What?", quote=True, documents=[" "])
        with pytest.raises(OptionError, match="quote='yes'"):
            model.invoke("What?", quote="yes", documents=DOCUMENTS)


def test_a_cached_answer_belongs_to_its_sources(tiny: GritLM) -> None:
    chat = ChatGrit(model=tiny, max_tokens=4, quote=True, cache=InMemoryCache())
    for source in ("one.txt", "two.txt", "one.txt"):
        document = Document(MOON.page_content, metadata={"source": source})
        citation = check(chat.invoke("What?", documents=[document]), [document])
        assert citation["extras"]["source"] == source


def test_the_plain_llm_tells_its_quotes(llm: GritLLM) -> None:
    result = llm.generate(["What pumps blood?"], documents=DOCUMENTS, quote=True).generations[0][0]
    (quote,) = result.generation_info["quotes"]
    assert quote["text"] == result.text == TEXTS[quote["document"]][quote["start"] : quote["end"]]
    assert "".join(llm.stream("What pumps blood?", documents=DOCUMENTS, quote=True)) == result.text
