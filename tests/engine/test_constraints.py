"""The constraint seam: the decoder says what is allowed, reads what is forced, and stops, whoever hands it in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grit_integrations import Decoding, Generation, GritLM
from grit_integrations.engine.constraints import Allowed, Constraint, restricted
from grit_integrations.engine.generate_job import GenerateJob
from grit_integrations.engine.streaming import GenerationStream


def packed(ids: Sequence[int], vocabulary: int) -> torch.Tensor:
    """Return ids as a bit mask, as grammar libraries give it."""
    words = [0] * -(-vocabulary // 32)
    for token in ids:
        words[token // 32] |= 1 << token % 32
    return torch.tensor([word - (1 << 32) if word >> 31 else word for word in words], dtype=torch.int32)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1))))
def test_a_bit_mask_allows_what_its_ids_allow(case: tuple[int, set[int]]) -> None:
    vocabulary, ids = case
    logits = torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(vocabulary))
    by_ids, by_mask = restricted(logits, sorted(ids)), restricted(logits, packed(sorted(ids), vocabulary))
    assert torch.equal(by_ids, by_mask)
    assert set(torch.isfinite(by_mask[0]).nonzero().flatten().tolist()) == ids


class Spelled(Constraint):
    """Says one of a few words, then a fixed ending: the first token is chosen, the rest is forced."""

    def __init__(self, words: Sequence[Sequence[int]], ending: Sequence[int], *, masks: int = 0) -> None:
        self._words, self._ending, self._masks = [list(word) for word in words], list(ending), masks
        self._said: list[int] = []
        self.asked: list[int] = []  # how often, and with how much room

    def allowed(self, room: int) -> Allowed:
        self.asked.append(room)
        ids = sorted({word[0] for word in self._words})
        return packed(ids, self._masks) if self._masks else ids

    def advance(self, token: int) -> None:
        self._said.append(token)

    def forced(self, room: int) -> Sequence[int]:
        word = next(word for word in self._words if word[0] == self._said[0])
        return [*word, *self._ending][len(self._said) :]

    @property
    def over(self) -> bool:
        return bool(self._said) and not self.forced(0)

    def completed(self, generation: Generation, logprob: float) -> Generation:
        assert logprob == 0.0, "it does not ask for it"
        return replace(generation, text=generation.text + "|")


def say(grit: GritLM, constraint: Constraint, **options: Any) -> tuple[Generation, list[int]]:
    """Generate under a constraint; return the result and how many tokens each pass read."""
    session, passes = grit._session(), []
    decoder, prefill = session.engine.decoder, session.engine.prefill
    reuse = session.cache.reuse(grit.prompt("Say it.").plan, "off")
    original = prefill.logits
    prefill.logits = lambda cache, ids: (passes.append(len(ids)), original(cache, ids))[1]  # type: ignore[method-assign]
    try:
        job = GenerateJob(decoder, reuse, Decoding(**options), asked=0.0, constraint=constraint)
        return GenerationStream(session.engine.scheduler.submit(job).channel, session.engine).result(), passes
    finally:
        del prefill.logits


@pytest.mark.parametrize("masks", [False, True])
def test_forced_tokens_are_said_and_not_chosen(tiny: GritLM, masks: bool) -> None:
    words = [tiny.tokenize(word) for word in ("pumping blood", "shining brightly")]
    ending = tiny.tokenize(" every day")
    constraint = Spelled(words, ending, masks=tiny.lm.config.vocab_size if masks else 0)
    answer, passes = say(tiny, constraint, max_new_tokens=50)
    assert answer.text in {f"{word} every day|" for word in ("pumping blood", "shining brightly")}
    assert answer.finish_reason == "stop" and len(constraint.asked) == 1
    assert list(answer.token_ids) in [[*word, *ending] for word in words]
    assert len(passes) == 1, "the prompt alone was read: nothing behind it was chosen"


def test_a_constraint_that_is_over_ends_the_text_without_an_end_token(tiny: GritLM) -> None:
    answer, _ = say(tiny, Spelled([tiny.tokenize("yes"), tiny.tokenize("no")], tiny.tokenize(".")), max_new_tokens=9)
    assert tiny.checkpoint.tokenizer.eos_id not in answer.token_ids
    assert answer.text in ("yes.|", "no.|") and answer.finish_reason == "stop"


def test_forced_tokens_count_and_end_for_lack_of_room(tiny: GritLM) -> None:
    word = tiny.tokenize("pumping blood every single day")
    answer, _ = say(tiny, Spelled([word], ()), max_new_tokens=3)
    assert list(answer.token_ids) == word[:3] and answer.finish_reason == "length"


def test_stop_strings_hold_under_a_constraint(tiny: GritLM) -> None:
    word = tiny.tokenize("pumping blood every day")
    answer, _ = say(tiny, Spelled([word], ()), max_new_tokens=30, stop=" every")
    assert answer.text == "pumping blood|" and answer.finish_reason == "stop"


def test_sampling_stays_among_the_allowed(tiny: GritLM) -> None:
    words = [tiny.tokenize(word) for word in ("red", "green", "blue")]
    said = {say(tiny, Spelled(words, ()), temperature=50.0, seed=seed)[0].text for seed in range(30)}
    assert said <= {"red|", "green|", "blue|"} and len(said) > 1
