"""Answers to held-out questions, in every way that a user could have them: modes, documents, free and quoted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from grit_integrations.evaluation.answer_scores import contains, exact_match, token_f1
from grit_integrations.evaluation.phrases import INSTRUCTIONS
from grit_integrations.evaluation.retrieval import embed_passages
from grit_integrations.evaluation.scope import EvaluationOptions, parse_quote
from grit_integrations.evaluation.sets import HeldOutQuestion, QuestionSet
from grit_integrations.kv.store.store import KVCacheStore
from grit_integrations.model import GritLM
from grit_integrations.options import MODES, Caching, Decoding, Precision
from grit_integrations.results import Generation, Quote

NEW_TOKENS = 24
FREE = "free"
_STORE_BYTES = "1GB"

Documents = Literal["gold", "top 1", "top 3", "none"]
WITH_DOCUMENTS: tuple[Documents, ...] = ("gold", "top 1", "top 3")
_RETRIEVED: dict[Documents, int] = {"top 1": 1, "top 3": 3}


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to answer.

    Attributes:
        documents: what the model is given: the passage that the question was asked about, the best that it finds itself
            among all of the set's passages, or nothing.
        caching: the mode.
        method: `"free"`, or a way of quoting as `scope.parse_quote` reads it.
        precision: of the store that documents' keys and values are kept in.
    """

    documents: Documents
    caching: Caching = "off"
    method: str = FREE
    precision: Precision = "native"

    @property
    def reference(self) -> Arm | None:
        """The arm that this one is compared with: without caching, or for int8 without rounding."""
        if self.precision == "int8":
            return Arm(self.documents, self.caching, self.method)
        return None if self.caching == "off" else Arm(self.documents, "off", self.method)

    def decoding(self) -> Decoding:
        """Return how tokens are chosen: greedily."""
        if self.method == FREE:
            return Decoding(max_new_tokens=NEW_TOKENS)
        return Decoding(max_new_tokens=NEW_TOKENS, quote=parse_quote(self.method))


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """What an arm answered to one question, how right that is in 0..1, and what the KV cache did."""

    question: HeldOutQuestion
    text: str
    exact: float
    f1: float
    contains: float
    quote: Quote | None
    hits: int
    misses: int
    read_tokens: int
    prompt_tokens: int

    @classmethod
    def of(cls, question: HeldOutQuestion, found: Generation) -> ScoredAnswer:
        """Score a generation."""
        text, usage = found.text.strip(), found.usage
        return cls(
            question=question,
            text=text,
            exact=exact_match(text, question.answer),
            f1=token_f1(text, question.answer),
            contains=contains(text, question.answer),
            quote=found.quotes[0] if found.quotes else None,
            hits=found.cache.hits,
            misses=found.cache.misses,
            read_tokens=usage.cache_read_tokens,
            prompt_tokens=usage.prompt_tokens,
        )

    @property
    def quote_score(self) -> float:
        """The score of the quote; that of no quote at all is below any other."""
        return float("-inf") if self.quote is None else self.quote.score


def all_arms(options: EvaluationOptions) -> list[Arm]:
    """Return the arms that are compared, those of one mode and precision behind each other.

    Without caching every method is measured; in the other modes free answers and the first way of quoting.
    """
    methods = (FREE, *options.quotes)
    kinds: list[tuple[Caching, Precision]] = [(caching, "native") for caching in options.cachings]
    kinds += [("doc", "int8")] if "doc" in options.cachings else []
    return [Arm("none")] + [
        Arm(documents, caching, method, precision)
        for caching, precision in kinds
        for documents in WITH_DOCUMENTS
        for method in (methods if caching == "off" else methods[:2])
    ]


class ArmRunner:
    """Answers the questions of one set; what was answered once is remembered.

    Args:
        grit: answers, and finds passages; its own mode and store stay as they are.
        found: questions and passages.
        cachings: modes that must all have room for a question; one too long for any of them is left out of all.
        advance: called with the number of questions answered or passages embedded.
    """

    def __init__(
        self,
        grit: GritLM,
        found: QuestionSet,
        *,
        cachings: Sequence[Caching],
        advance: Callable[[int], Any] = lambda count: None,
    ) -> None:
        self.grit = grit
        self.found = found
        self.cachings = tuple(cachings)
        self.seconds: dict[Arm, float] = {}
        self._advance = advance
        self._answers: dict[Arm, tuple[ScoredAnswer, ...]] = {}
        self._fitting: dict[Documents, tuple[HeldOutQuestion, ...]] = {}

    def answers(self, arm: Arm) -> tuple[ScoredAnswer, ...]:
        """Return an arm's answers to those questions that fit into the window."""
        self.run([arm])
        return self._answers[arm]

    def run(self, arms: Sequence[Arm]) -> None:
        """Answer in all arms that were not run yet; those of one mode share a store, which is then let go."""
        missing = [arm for arm in arms if arm not in self._answers]
        for caching, precision in dict.fromkeys((arm.caching, arm.precision) for arm in missing):
            with _model(self.grit, caching, precision) as model:
                for arm in missing:
                    if (arm.caching, arm.precision) == (caching, precision):
                        self._answers[arm] = self._run(model, arm)

    def questions(self, documents: Documents) -> tuple[HeldOutQuestion, ...]:
        """Return the questions that fit into the window with such documents, in every mode."""
        if documents not in self._fitting:
            room = self.grit.window - NEW_TOKENS
            self._fitting[documents] = tuple(
                question for question in self.found.questions if self._length(question, documents) <= room
            )
        return self._fitting[documents]

    def documents(self, question: HeldOutQuestion, kind: Documents) -> list[str]:
        """Return what a question is asked about."""
        if kind in _RETRIEVED:
            return [self.found.passages[index] for index in self.retrieved[question][: _RETRIEVED[kind]]]
        return [question.context] if kind == "gold" else []

    @cached_property
    def retrieved(self) -> dict[HeldOutQuestion, list[int]]:
        """The passages that the model finds for each question, best first."""
        passages = embed_passages(self.grit, self.found.passages, advance=self._advance)
        questions = list(dict.fromkeys(self.found.questions))
        queries = self.grit.embed_queries(
            [question.text for question in questions],
            instruction=INSTRUCTIONS["question"],
            truncate=True,
            progress=False,
        )
        order = np.argsort(-(queries @ passages.T), axis=1, kind="stable")[:, : max(_RETRIEVED.values())]
        return dict(zip(questions, order.tolist(), strict=True))

    def _length(self, question: HeldOutQuestion, kind: Documents) -> int:
        documents = self.documents(question, kind)
        modes = self.cachings if documents else ("off",)
        return max(self.grit.count_message_tokens(question.text, documents, caching=mode) for mode in modes)

    def _run(self, model: GritLM, arm: Arm) -> tuple[ScoredAnswer, ...]:
        questions = self.questions(arm.documents)
        began = time.perf_counter()
        answers = tuple(self._answer(model, arm, question) for question in questions)
        self.seconds[arm] = time.perf_counter() - began
        return answers

    def _answer(self, model: GritLM, arm: Arm, question: HeldOutQuestion) -> ScoredAnswer:
        documents = self.documents(question, arm.documents)
        _read_ahead(model, question, documents)
        found = model.generate(question.text, documents, decoding=arm.decoding())
        self._advance(1)
        return ScoredAnswer.of(question, found)


@contextmanager
def _model(grit: GritLM, caching: Caching, precision: Precision) -> Iterator[GritLM]:
    """Give the same weights another mode, and a store of their own in memory."""
    with KVCacheStore(None, ram_bytes=_STORE_BYTES, precision=precision) as store:
        yield grit.with_options(caching=caching, kv_store=store)


def _read_ahead(model: GritLM, question: HeldOutQuestion, documents: Sequence[str]) -> None:
    """Read what the mode keeps, as an index or an earlier question would have, so that answers start from the store."""
    if documents:
        model.cache_documents(documents, progress=False)
        if MODES[model.caching].embeds_query:
            model.embed_queries([question.text], truncate=True, progress=False)
