"""The conformance suite: it passes a reranker that is right, and catches each way of being wrong."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
from langchain_core.documents import BaseDocumentCompressor, Document
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore

from grit_integrations.testing import (
    CaseResult,
    LangChainRerankerSuite,
    LlamaIndexRerankerSuite,
    Passage,
    RerankerSuite,
    run_conformance,
)

Item = dict[str, Any]


def worth(query: str, text: str) -> float:
    """A reranker whose answers are known: words that a text shares with the query."""
    return float(len(set(query.lower().split()) & set(text.lower().split())))


def ranked(query: str, items: list[Item], *, top_n: int) -> list[Item]:
    scored = [{**item, "score": worth(query, item["text"])} for item in items]
    return sorted(scored, key=lambda item: -item["score"])[:top_n]


class Plain(RerankerSuite[Item]):
    """A reranker of no framework."""

    reranker: ClassVar[Callable[..., list[Item]]] = staticmethod(ranked)

    def item(self, passage: Passage) -> Item:
        return {
            "text": passage.text,
            "metadata": dict(passage.metadata),
            "id": passage.id,
            "score": passage.score,
        }

    def passage(self, item: Item) -> Passage:
        return Passage(item["text"], item["metadata"], item["id"], item["score"])

    def rerank(self, query: str, items: list[Item], *, top_n: int) -> Sequence[Item]:
        return type(self).reranker(query, items, top_n=top_n)


class TestPlain(Plain):
    async def arerank(self, query: str, items: list[Item], *, top_n: int) -> Sequence[Item]:
        return self.rerank(query, items, top_n=top_n)


class Compressor(BaseDocumentCompressor):
    top_n: int

    def compress_documents(self, documents: Sequence[Document], query: str, callbacks: Any = None) -> list[Document]:
        scored = [
            document.model_copy(
                update={"metadata": {**document.metadata, "relevance_score": worth(query, document.page_content)}}
            )
            for document in documents
        ]
        return sorted(scored, key=lambda document: -document.metadata["relevance_score"])[: self.top_n]


class TestCompressor(LangChainRerankerSuite):
    def compressor(self, top_n: int) -> BaseDocumentCompressor:
        return Compressor(top_n=top_n)


class Postprocessor(BaseNodePostprocessor):
    top_n: int

    def _postprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: Any = None) -> list[NodeWithScore]:
        scored = [
            NodeWithScore(node=each.node, score=worth(query_bundle.query_str, each.node.get_content()))
            for each in nodes
        ]
        return sorted(scored, key=lambda each: -(each.score or 0.0))[: self.top_n]


class TestPostprocessor(LlamaIndexRerankerSuite):
    def postprocessor(self, top_n: int) -> BaseNodePostprocessor:
        return Postprocessor(top_n=top_n)


# Ways of being wrong, and the cases that notice.


def loses_the_last(query: str, items: list[Item], *, top_n: int) -> list[Item]:
    return ranked(query, items, top_n=top_n)[: max(1, len(items) - 1)]


def ignores_top_n(query: str, items: list[Item], *, top_n: int) -> list[Item]:
    return ranked(query, items, top_n=len(items))


def picks_other_best(query: str, items: list[Item], *, top_n: int) -> list[Item]:
    return ranked(query, items[-top_n:], top_n=top_n)


def needs_a_passage(query: str, items: list[Item], *, top_n: int) -> list[Item]:
    assert max(worth(query, item["text"]) for item in items) >= 0
    return ranked(query, items, top_n=top_n)


def merges_duplicates(query: str, items: list[Item], *, top_n: int) -> list[Item]:
    return ranked(query, list({item["text"]: item for item in reversed(items)}.values())[::-1], top_n=top_n)


def drops_blanks(query: str, items: list[Item], *, top_n: int) -> list[Item]:
    return ranked(query, [item for item in items if item["text"].strip()], top_n=top_n)


def drops_metadata(query: str, items: list[Item], *, top_n: int) -> list[Item]:
    return [{**item, "metadata": {}} for item in ranked(query, items, top_n=top_n)]


def drops_ids(query: str, items: list[Item], *, top_n: int) -> list[Item]:
    return [{**item, "id": None} for item in ranked(query, items, top_n=top_n)]


def edits_texts(query: str, items: list[Item], *, top_n: int) -> list[Item]:
    return [{**item, "text": item["text"].lower()} for item in ranked(query, items, top_n=top_n)]


def writes_into_metadata(query: str, items: list[Item], *, top_n: int) -> list[Item]:
    for item in items:
        item["metadata"]["seen"] = True
    return ranked(query, items, top_n=top_n)


def sorts_in_place(query: str, items: list[Item], *, top_n: int) -> list[Item]:
    items.sort(key=lambda item: -worth(query, item["text"]))
    return ranked(query, items, top_n=top_n)


def keeps_stale_scores(query: str, items: list[Item], *, top_n: int) -> list[Item]:
    return sorted(items, key=lambda item: -worth(query, item["text"]))[:top_n]


def gives_no_scores(query: str, items: list[Item], *, top_n: int) -> list[Item]:
    return [{**item, "score": None} for item in ranked(query, items, top_n=top_n)]


def scores_nan(query: str, items: list[Item], *, top_n: int) -> list[Item]:
    return [{**item, "score": float("nan")} for item in ranked(query, items, top_n=top_n)]


def sorts_upside_down(query: str, items: list[Item], *, top_n: int) -> list[Item]:
    return ranked(query, items, top_n=len(items))[::-1][:top_n]


def gives_nothing(query: str, items: list[Item], *, top_n: int) -> list[Item]:
    return []


def turns_ties(query: str, items: list[Item], *, top_n: int) -> list[Item]:
    return ranked(query, items[::-1], top_n=top_n)


def divides_by_the_sum(query: str, items: list[Item], *, top_n: int) -> list[Item]:
    found = ranked(query, items, top_n=len(items))
    total = sum(item["score"] for item in found) or 1.0
    return [{**item, "score": item["score"] / total} for item in found][:top_n]


def rolls_dice(query: str, items: list[Item], *, top_n: int) -> list[Item]:
    return [{**item, "score": item["score"] + random.random()} for item in ranked(query, items, top_n=top_n)]


WRONG: dict[Callable[..., list[Item]], set[str]] = {
    loses_the_last: {"every passage comes back once", "top n larger than the list", "duplicates come back"},
    ignores_top_n: {"top n keeps the best"},
    picks_other_best: {"top n keeps the best"},
    needs_a_passage: {"no passages"},
    merges_duplicates: {"duplicates come back", "ties keep their order"},
    drops_blanks: {"a blank passage comes back"},
    drops_metadata: {"metadata is kept"},
    drops_ids: {"texts and ids are kept"},
    edits_texts: {"texts and ids are kept", "every passage comes back once"},
    writes_into_metadata: {"inputs stay as they were"},
    sorts_in_place: {"inputs stay as they were"},
    keeps_stale_scores: {"scores descend", "scores are those of the reranker", "every passage has a score"},
    gives_nothing: {"one passage", "metadata is kept", "texts and ids are kept", "top n keeps the best"},
    gives_no_scores: {"every passage has a score", "scores descend"},
    scores_nan: {"every passage has a score"},
    sorts_upside_down: {"scores descend"},
    turns_ties: {"ties keep their order"},
    divides_by_the_sum: {"scores do not depend on the other passages"},
    rolls_dice: {"the same again", "scores do not depend on the other passages"},
}


def failed(results: Sequence[CaseResult]) -> dict[str, str]:
    return {result.case: result.message for result in results if result.outcome == "failed"}


@pytest.mark.parametrize("reranker", WRONG, ids=lambda reranker: reranker.__name__)
def test_what_is_wrong_is_found(reranker: Callable[..., list[Item]]) -> None:
    suite = type("Wrong", (Plain,), {"reranker": staticmethod(reranker)})
    found = failed(run_conformance(suite()))
    assert WRONG[reranker] <= set(found), found
    assert all(found.values())


def test_what_is_right_passes() -> None:
    results = run_conformance(Plain())
    assert not failed(results)
    assert [result.case for result in results if result.outcome == "skipped"] == ["async equals sync"]
    assert {result.outcome for result in run_conformance(TestCompressor())} == {"passed"}
    assert {result.outcome for result in run_conformance(TestPostprocessor())} == {"passed"}


def test_another_async_form_is_found() -> None:
    class Twofold(Plain):
        async def arerank(self, query: str, items: list[Item], *, top_n: int) -> Sequence[Item]:
            return sorts_upside_down(query, items, top_n=top_n)

    assert set(failed(run_conformance(Twofold()))) == {"async equals sync"}


async def test_a_suite_runs_inside_an_event_loop() -> None:
    assert not failed(run_conformance(TestPlain()))


def test_listwise_rerankers_may_compare() -> None:
    class Listwise(Plain):
        independent = False
        reranker = staticmethod(divides_by_the_sum)

    results = {result.case: result.outcome for result in run_conformance(Listwise())}
    assert results["scores do not depend on the other passages"] == "skipped"
    assert "failed" not in results.values()


def test_a_case_can_be_left_out() -> None:
    class Blind(Plain):
        reranker = staticmethod(drops_blanks)
        test_a_blank_passage_comes_back = None  # type: ignore[assignment]

    assert not failed(run_conformance(Blind()))


def test_an_error_is_a_failed_case_with_its_message() -> None:
    def breaks(*_: object, **__: object) -> list[Item]:
        raise RuntimeError("out of order")

    suite = type("Broken", (Plain,), {"reranker": staticmethod(breaks)})
    results = run_conformance(suite())
    assert {result.message for result in results if result.outcome == "failed"} == {"RuntimeError: out of order"}


@pytest.mark.parametrize(
    ("name", "blocked", "extra"),
    [
        ("LangChainRerankerSuite", "langchain_core", "langchain"),
        ("LlamaIndexRerankerSuite", "llama_index", "llama-index"),
    ],
)
def test_a_missing_framework_is_named(name: str, blocked: str, extra: str) -> None:
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] == {blocked!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import grit_integrations.testing as testing\n"
        "from grit_integrations import MissingExtraError\n"
        "try:\n"
        f"    testing.{name}\n"
        "except MissingExtraError as error:\n"
        "    print(error)\n"
        "assert 'torch' not in sys.modules\n"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert f"grit_integrations[{extra}]" in output
