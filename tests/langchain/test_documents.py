"""Documents of a call and of tools: what is taken for one, what is refused, what is passed over."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from grit_integrations import OptionError
from grit_integrations.langchain.documents import document_texts, known_texts


def tool(artifact: Any) -> ToolMessage:
    return ToolMessage("what the tool says", tool_call_id="1", artifact=artifact)


def test_documents_may_be_langchains_strings_or_plain_data() -> None:
    given = [Document("a"), "b", {"page_content": "c"}, SimpleNamespace(page_content="d"), Document(" "), "", "\n"]
    assert document_texts(given) == document_texts(tuple(given))
    assert [(passage.text, passage.index) for passage in document_texts(given)] == list(
        zip("abcd", range(4), strict=True)
    )
    assert document_texts(None) == document_texts([]) == ()


def test_a_passage_keeps_its_place_and_what_is_known_of_it() -> None:
    document = Document("a", id="7", metadata={"source": "a.txt"})
    (passage,) = document_texts([" ", document])
    assert (passage.index, passage.id, passage.metadata) == (1, "7", {"source": "a.txt"})


@pytest.mark.parametrize("given", ["one text", Document("one"), iter(["a"]), {"page_content": "a"}, 3])
def test_what_is_no_list_is_refused(given: Any) -> None:
    with pytest.raises(OptionError, match=f"documents is a {type(given).__name__}. It must be a list"):
        document_texts(given)


@pytest.mark.parametrize("given", [None, 3, {"text": "a"}, {"page_content": None}, ["a"]])
def test_what_is_no_document_is_refused_by_its_index(given: Any) -> None:
    with pytest.raises(OptionError, match=f"Document 1 is a {type(given).__name__}. It must be a Document"):
        document_texts(["a", given])


@pytest.mark.parametrize(
    ("artifact", "texts"),
    [
        (Document("a"), ["a"]),
        ([Document("a"), Document("b")], ["a", "b"]),
        ((Document("a"), SimpleNamespace(page_content="b")), ["a", "b"]),
        ({"page_content": "a", "metadata": {}}, ["a"]),
        ([{"page_content": "a"}, {"text": "b"}, 3, None, "c", Document(" ")], ["a"]),
        ([[Document("a")]], []),
        ({"documents": [Document("a")]}, []),
        ("text", []),
        (None, []),
        (3.5, []),
        ({"page_content": 3}, []),
    ],
)
def test_artifacts_of_tools_are_documents_where_they_look_like_it(artifact: Any, texts: list[str]) -> None:
    assert known_texts([HumanMessage("q"), AIMessage(""), tool(artifact)]) == texts


def test_all_tools_count_and_nobody_else() -> None:
    messages = [tool(Document("a")), HumanMessage("b", artifact=Document("c")), tool([Document("d")])]
    assert known_texts(messages) == ["a", "d"]
