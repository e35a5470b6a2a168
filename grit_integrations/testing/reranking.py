"""What every reranker owes to the chain it stands in, as a suite of cases.

The suite knows no framework and needs no test runner: a case is a method whose name begins with `test_`, which raises
`AssertionError` with what was found and wanted, or `unittest.SkipTest`. pytest runs subclasses called `Test...`.
"""

from __future__ import annotations

import asyncio
import copy
import math
import unittest
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, Literal, TypeVar

Item = TypeVar("Item")
Outcome = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage before or behind a reranker: its text, its metadata, its id, and its score if it has one."""

    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What came of one case; `message` says what was found where it did not pass."""

    case: str
    outcome: Outcome
    message: str = ""


QUERY = "Which organ pumps blood through the body?"
TEXTS = (
    "The Moon goes around the Earth once in 27 days.",
    "The heart is a muscle that pumps blood through the vessels.",
    "Plants make sugar from light, water and carbon dioxide.",
    "Blood carries oxygen from the lungs to every organ.",
    "The French Revolution began in 1789.",
    "Granite is a rock that cooled slowly, deep in the crust.",
)


class RerankerSuite(ABC, Generic[Item]):
    """Cases for a reranker whose inputs and outputs are `Item`s, such as documents or nodes.

    Say how an item is made and read, and how the reranker is called; for LangChain and LlamaIndex that is done.

    Attributes:
        independent: whether a passage's score depends on the query and itself alone. Set it to `False` for listwise
            rerankers, which compare passages.
        tolerance: by how much a score may change with the other passages, absolutely or in proportion.
    """

    independent: ClassVar[bool] = True
    tolerance: ClassVar[float] = 1e-4

    @abstractmethod
    def item(self, passage: Passage) -> Item:
        """Return what the reranker is given for a passage, with the score that a retriever gave it."""

    @abstractmethod
    def passage(self, item: Item) -> Passage:
        """Return what an item holds, with the score that the reranker gave it, if any."""

    @abstractmethod
    def rerank(self, query: str, items: list[Item], *, top_n: int) -> Sequence[Item]:
        """Return the best `top_n` of `items`, best first, by a reranker made for that number."""

    async def arerank(self, query: str, items: list[Item], *, top_n: int) -> Sequence[Item]:
        """Return what `rerank` does, by the reranker's async form; without one, its case is skipped."""
        raise unittest.SkipTest("This reranker has no async form.")

    # Every passage

    def test_no_passages(self) -> None:
        """Nothing in, nothing out."""
        found = list(self.rerank(QUERY, [], top_n=3))
        _expect(not found, f"{len(found)} passages came out of none.")

    def test_one_passage(self) -> None:
        """One passage comes back, although there is nothing to put in order."""
        self._expect_passages(self._ranked(_passages(1), top_n=1), _passages(1))

    def test_every_passage_comes_back_once(self) -> None:
        """None is lost, invented or doubled."""
        self._expect_passages(self._ranked(_passages()), _passages())

    def test_top_n_larger_than_the_list(self) -> None:
        """Asking for more than there are gives all."""
        self._expect_passages(self._ranked(_passages(), top_n=10 * len(TEXTS)), _passages())

    def test_top_n_keeps_the_best(self) -> None:
        """Fewer are the first of all."""
        best = [passage.id for passage in self._ranked(_passages(), top_n=2)]
        wanted = [passage.id for passage in self._ranked(_passages())][:2]
        _expect(best == wanted, f"top_n=2 gives {best}; the first two of all are {wanted}.")

    def test_duplicates_come_back(self) -> None:
        """Passages of one text are passages of their own."""
        self._expect_passages(self._ranked(_duplicates()), _duplicates())

    def test_a_blank_passage_comes_back(self) -> None:
        """A passage without a word is bad, but not lost."""
        passages = [*_passages(3), Passage("   ", {"number": 3}, "passage-3", 0.5)]
        self._expect_passages(self._ranked(passages), passages)

    # What it holds

    def test_metadata_is_kept(self) -> None:
        """Each passage has its own metadata; the reranker may add to it."""
        given = {passage.id: passage.metadata for passage in _passages()}
        for passage in self._ranked(_passages()):
            wanted = given.get(passage.id, {})
            found = {key: passage.metadata.get(key) for key in wanted}
            _expect(found == wanted, f"Passage {passage.id} came with the metadata {wanted} and left with {found}.")

    def test_texts_and_ids_are_kept(self) -> None:
        """A text is not edited, and what stores and traces know a passage by stays."""
        given = {passage.id: passage.text for passage in _passages()}
        for passage in self._ranked(_passages()):
            _expect(passage.id in given, f"A passage came out with the id {passage.id!r}, which none had.")
            _expect(given[passage.id] == passage.text, f"The text of {passage.id} became {passage.text!r}.")

    def test_inputs_stay_as_they_were(self) -> None:
        """What the caller holds is the caller's: the list, the passages in it, and their metadata."""
        items = [self.item(passage) for passage in _passages()]
        given, before = list(items), copy.deepcopy(items)
        self.rerank(QUERY, items, top_n=len(items))
        _expect(len(items) == len(given), f"The caller's list had {len(given)} passages and now has {len(items)}.")
        _expect(all(a is b for a, b in zip(items, given, strict=True)), "The caller's list is in another order.")
        for was, now in zip(before, items, strict=True):
            _expect(was == now, f"The caller's passage was {was!r} and is now {now!r}.")

    # Scores

    def test_every_passage_has_a_score(self) -> None:
        """Whoever filters by score finds one, and it is a number, also if the retriever gave none."""
        for passage in self._ranked(_unscored()):
            number = isinstance(passage.score, (int, float)) and math.isfinite(passage.score)
            _expect(number, f"Passage {passage.id} has the score {passage.score!r}.")

    def test_scores_descend(self) -> None:
        """The best is the first: scores and order say the same."""
        scores = list(self._scores(self._ranked(_passages())).values())
        _expect(scores == sorted(scores, reverse=True), f"The scores are {scores}, in the order of the passages.")

    def test_scores_are_those_of_the_reranker(self) -> None:
        """A score of the retriever does not pass for one of the reranker."""
        low = [replace(passage, score=0.01 * number) for number, passage in enumerate(_passages())]
        first, second = self._scores(self._ranked(_passages())), self._scores(self._ranked(low))
        near = all(self._near(first[name], second.get(name, math.nan)) for name in first)
        _expect(near, f"With other scores of the retriever, the scores {first} become {second}.")

    def test_ties_keep_their_order(self) -> None:
        """Equal passages stay in the retriever's order."""
        ranked = self._ranked(_duplicates())
        for text in {passage.text for passage in ranked}:
            found = [passage.id for passage in ranked if passage.text == text]
            wanted = [passage.id for passage in _duplicates() if passage.text == text]
            _expect(found == wanted, f"Passages of one text came as {wanted} and left as {found}.")

    def test_scores_do_not_depend_on_the_other_passages(self) -> None:
        """A batch is no context."""
        if not self.independent:
            raise unittest.SkipTest("A listwise reranker compares passages.")
        together = self._scores(self._ranked(_unscored()))
        for passage in _unscored():
            (alone,) = self._scores(self._ranked([passage])).values()
            among = together.get(passage.id, math.nan)
            _expect(self._near(alone, among), f"{passage.id} scores {among} among others and {alone} alone.")

    # Calls

    def test_the_same_again(self) -> None:
        """The same question gives the same answer."""
        self._expect_same(self._ranked(_passages()), self._ranked(_passages()), "The second call")

    def test_async_equals_sync(self) -> None:
        """Both forms give the same."""

        async def call() -> Sequence[Item]:
            return await self.arerank(QUERY, [self.item(passage) for passage in _passages()], top_n=len(TEXTS))

        with ThreadPoolExecutor(1) as thread:  # the caller, such as a notebook, may have a running loop
            found = [self.passage(item) for item in thread.submit(asyncio.run, call()).result()]
        self._expect_same(self._ranked(_passages()), found, "The async form")

    def _ranked(self, passages: Sequence[Passage], *, top_n: int | None = None) -> list[Passage]:
        items = [self.item(passage) for passage in passages]
        ranked = [self.passage(item) for item in self.rerank(QUERY, items, top_n=top_n or len(items))]
        _expect(bool(ranked), f"No passage came back of {len(items)}.")
        return ranked

    def _scores(self, ranked: Sequence[Passage]) -> dict[str | None, float]:
        """Return the score of each of `_passages` that was ranked, in the order of the ranking."""
        without = [passage.id for passage in ranked if passage.score is None]
        _expect(not without, f"Passages without a score: {without}.")
        return {passage.id: passage.score for passage in ranked if passage.score is not None}

    def _near(self, first: float, second: float) -> bool:
        return math.isclose(first, second, rel_tol=self.tolerance, abs_tol=self.tolerance)

    def _expect_same(self, wanted: Sequence[Passage], found: Sequence[Passage], which: str) -> None:
        same = [replace(passage, score=None) for passage in wanted] == [replace(p, score=None) for p in found]
        near = same and all(self._near(a.score or 0, b.score or 0) for a, b in zip(wanted, found, strict=True))
        _expect(near, f"{which} gives {found} instead of {wanted}.")

    def _expect_passages(self, found: Sequence[Passage], wanted: Sequence[Passage]) -> None:
        have, want = Counter(passage.text for passage in found), Counter(passage.text for passage in wanted)
        lost, invented = list((want - have).elements()), list((have - want).elements())
        _expect(not lost and not invented, f"Lost: {lost}. Not given, or given fewer times: {invented}.")


def run_conformance(suite: RerankerSuite[Any]) -> list[CaseResult]:
    """Run every case of `suite`, in the order of their definition, and return what came of each.

    Whatever a reranker raises is a failed case.
    """
    names = dict.fromkeys(name for kind in reversed(type(suite).__mro__) for name in vars(kind))
    cases = [name for name in names if name.startswith("test_") and callable(getattr(suite, name))]
    return [_run(suite, name) for name in cases]


def _run(suite: RerankerSuite[Any], name: str) -> CaseResult:
    case = name.removeprefix("test_").replace("_", " ")
    try:
        getattr(suite, name)()
    except unittest.SkipTest as reason:
        return CaseResult(case, "skipped", str(reason))
    except AssertionError as error:
        return CaseResult(case, "failed", str(error))
    except Exception as error:  # the reranker under test may raise anything
        return CaseResult(case, "failed", f"{type(error).__name__}: {error}")
    return CaseResult(case, "passed")


def _passages(count: int = len(TEXTS)) -> list[Passage]:
    """Return passages as a retriever gives them: scores descend, metadata is nested, ids are its store's."""
    return [
        Passage(
            text, {"source": f"book-{number}.md", "number": number, "tags": ["a", number]}, f"passage-{number}", score
        )
        for number, (text, score) in enumerate(zip(TEXTS[:count], (0.9, 0.8, 0.7, 0.6, 0.5, 0.4), strict=False))
    ]


def _unscored() -> list[Passage]:
    return [replace(passage, score=None) for passage in _passages()]


def _duplicates() -> list[Passage]:
    """Return two texts three times each, in turn. Only ids differ: metadata may be part of what a reranker reads."""
    return [Passage(TEXTS[number % 2], {"source": "book.md"}, f"passage-{number}", 0.5) for number in range(6)]


def _expect(held: bool, message: str) -> None:
    if not held:  # no assert statement: the suite must also work under python -O
        raise AssertionError(message)
