"""Quoted answers: always the documents' own words, found exactly, and the same from a cache hit as from a miss."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_texts import documents_lists

from grit_integrations import Decoding, EmptyTextError, GritLM, KVCacheStore, OptionError, PromptError, Quoting
from grit_integrations.options import CACHINGS, QUOTE_METHODS, Caching, QuoteMethod
from grit_integrations.quoting.sentences import pieces
from grit_integrations.quoting.spans import Spans
from grit_integrations.quoting.words import word_boundaries
from grit_integrations.results import Generation

HEART = "The heart pumps blood through the vessels. It rests for 0.4 seconds, Dr. Harvey's book says."
MOON = "The Moon orbits Earth in 27.3 days (about a month). The heart of the Moon is iron."
DOCUMENTS = [HEART, MOON]


def quoted(grit: GritLM, documents: list[str], question: str = "What pumps blood?", **options: Any) -> Generation:
    caching = options.pop("caching", "off")
    quoting = Quoting(**{name: options.pop(name) for name in Quoting.__dataclass_fields__ if name in options})
    decoding = Decoding(quote=quoting, **{"max_new_tokens": 24, **options})
    return grit.generate(question, documents, decoding=decoding, caching=caching)


def check(generation: Generation, documents: list[str]) -> None:
    """Everything that holds for every quote."""
    (quote,) = generation.quotes
    assert quote.text == generation.text == documents[quote.document][quote.start : quote.end] != ""
    boundaries = word_boundaries(documents[quote.document])
    assert quote.start in boundaries.starts and quote.end in boundaries.ends
    assert math.isfinite(quote.score) and quote.score <= 1e-6
    if quote.within is not None:
        assert quote.within[0] <= quote.start <= quote.end <= quote.within[1] <= len(documents[quote.document])


@pytest.fixture(scope="module", params=["mistral vocabulary", "byte-level"])
def grit(request: pytest.FixtureRequest, tiny: GritLM, mini: GritLM) -> GritLM:
    return tiny if request.param == "mistral vocabulary" else mini


options = st.one_of(
    st.builds(
        dict,
        temperature=st.sampled_from([0.0, 0.7, 5.0]),
        seed=st.integers(0, 99),
        max_new_tokens=st.integers(12, 30),
        top_k=st.sampled_from([0, 3]),
        top_p=st.sampled_from([1.0, 0.8]),
        repetition_penalty=st.sampled_from([1.0, 1.7]),
        sentences=st.sampled_from([0, 0, 2]),
        neighbours=st.sampled_from([1, 2]),
    ),
    st.builds(
        dict,
        method=st.just("spans"),
        longest=st.integers(12, 20),
        length_penalty=st.sampled_from([0.0, 0.5, 1.0]),
        sentences=st.sampled_from([0, 0, 1]),
    ),
    st.builds(
        dict,
        method=st.just("sentences"),
        max_new_tokens=st.sampled_from([4, 12, 40]),
        length_penalty=st.sampled_from([0.0, 1.0]),
        sentences=st.sampled_from([0, 1, 3]),
        neighbours=st.sampled_from([1, 2]),
    ),
)


@settings(max_examples=60, deadline=None)
@given(documents=documents_lists, options=options)
def test_every_quote_stands_in_its_document(grit: GritLM, documents: list[str], options: dict[str, Any]) -> None:
    try:
        generation = quoted(grit, documents, **options)
    except (PromptError, OptionError) as error:
        assert "no word" in str(error) or "too few" in str(error) or isinstance(error, EmptyTextError)
        return
    check(generation, documents)


@settings(max_examples=30, deadline=None)
@given(documents=documents_lists, seed=st.integers(0, 99))
def test_streamed_text_is_the_quote(grit: GritLM, documents: list[str], seed: int) -> None:
    decoding = Decoding(quote=True, max_new_tokens=30, temperature=1.0, seed=seed)
    try:
        chunks = list(grit.stream("What?", documents, decoding=decoding))
    except PromptError:
        return
    *earlier, last = chunks
    assert last.generation is not None and not any(chunk.generation for chunk in earlier)
    assert "".join(chunk.text for chunk in chunks) == last.generation.text
    check(last.generation, documents)


@pytest.mark.parametrize("room", range(1, 12))
def test_the_last_word_is_whole_however_few_tokens_there_are(grit: GritLM, room: int) -> None:
    for seed in range(8):
        generation = quoted(grit, DOCUMENTS, max_new_tokens=room, temperature=3.0, seed=seed)
        check(generation, DOCUMENTS)
        assert len(generation.token_ids) <= room


def test_a_quote_that_the_limit_ends_says_so(tiny: GritLM) -> None:
    reasons = {quoted(tiny, DOCUMENTS, max_new_tokens=3, temperature=3.0, seed=n).finish_reason for n in range(20)}
    assert "length" in reasons


def test_sampling_is_repeatable_and_varies(tiny: GritLM) -> None:
    texts = [quoted(tiny, DOCUMENTS, temperature=2.0, seed=seed).text for seed in (*range(10), *range(10))]
    assert texts[:10] == texts[10:] and len(set(texts)) > 3


def test_equal_documents_are_quoted_from_the_first(grit: GritLM) -> None:
    for quoting in ({}, {"method": "spans"}, {"method": "sentences"}, {"temperature": 2.0, "seed": 3}):
        (quote,) = quoted(grit, [MOON, HEART, MOON, HEART], **quoting).quotes
        assert quote.document < 2
        assert [MOON, HEART][quote.document].index(quote.text) == quote.start


def test_a_stop_string_is_in_no_quote(tiny: GritLM) -> None:
    for seed in range(20):
        generation = quoted(tiny, DOCUMENTS, stop=(" ", "a"), temperature=2.0, seed=seed)
        check(generation, DOCUMENTS)
        assert not {" ", "a"} & set(generation.text)
    for method in ("spans", "sentences"):
        assert not {" ", "a"} & set(quoted(tiny, DOCUMENTS, stop=(" ", "a"), method=method).text)


def test_logprobs_are_the_models_own(tiny: GritLM) -> None:
    for method in QUOTE_METHODS:
        generation = quoted(tiny, DOCUMENTS, method=method, logprobs=2)
        assert [entry.token_id for entry in generation.logprobs] == list(generation.token_ids)
        assert all(len(entry.alternatives) == 2 for entry in generation.logprobs)
        ids = [*prompt_ids(tiny, DOCUMENTS), *generation.token_ids]
        with torch.inference_mode():
            logits = tiny.lm(torch.tensor([ids])).logits[0].log_softmax(-1)
        wanted = [
            float(logits[-len(generation.token_ids) - 1 + n, token]) for n, token in enumerate(generation.token_ids)
        ]
        assert [entry.logprob for entry in generation.logprobs] == pytest.approx(wanted, abs=1e-4)


def prompt_ids(grit: GritLM, documents: list[str], question: str = "What pumps blood?") -> list[int]:
    return list(grit.prompt(question, documents, caching="off").plan.prompt_ids)


def brute_force(grit: GritLM, documents: list[str], longest: int, penalty: float) -> dict[tuple[int, ...], float]:
    """Score every span, each time along a longest one: a plain forward pass of prompt and span, without a cache."""
    spans = Spans(grit.checkpoint.tokenizer, documents)
    eos, prompt = grit.checkpoint.tokenizer.eos_id, prompt_ids(grit, documents)
    scores: dict[tuple[int, ...], float] = {}
    waiting: list[tuple[int, ...]] = [()]
    while waiting:
        ids = waiting.pop()
        longer = [(*ids, token) for token in spans.allowed(ids) if token != eos] if len(ids) < longest else []
        waiting += longer
        if ids and not longer:
            scores |= scores_along(grit, spans, prompt, ids, penalty)
    return scores


def scores_along(
    grit: GritLM, spans: Spans, prompt: list[int], ids: tuple[int, ...], penalty: float
) -> dict[tuple[int, ...], float]:
    """Score `ids` and every beginning of it that is a span too."""
    eos, scores, total = grit.checkpoint.tokenizer.eos_id, {}, 0.0
    with torch.inference_mode():
        logits = grit.lm(torch.tensor([[*prompt, *ids]]), logits_to_keep=len(ids) + 1).logits[0].double()
    for place, following in enumerate((*ids, eos)):
        allowed = spans.allowed(ids[:place])
        logprobs = dict(zip(allowed, logits[place, allowed].log_softmax(-1).tolist(), strict=True))
        if place and eos in logprobs:
            scores[ids[:place]] = (total + logprobs[eos]) / place**penalty
        total += logprobs.get(following, 0.0)  # the last one, cut off by `longest`, may be no span
    return scores


words = st.sampled_from(["the", "heart", "pumps", "(blood)", "the", "3.5", "naïve", "你好", "don't", "The", "a,"])
small_documents = st.lists(st.lists(words, min_size=1, max_size=9).map(" ".join), min_size=1, max_size=3)


@settings(max_examples=25, deadline=None)
@given(documents=small_documents, penalty=st.sampled_from([0.0, 0.5, 1.0]), longest=st.sampled_from([3, 6, 24]))
def test_the_best_span_is_that_of_brute_force(grit: GritLM, documents: list[str], penalty: float, longest: int) -> None:
    scores = brute_force(grit, documents, longest, penalty)
    if not scores:
        return
    generation = quoted(grit, documents, method="spans", longest=longest, length_penalty=penalty)
    best = max(scores.values())
    ids = generation.token_ids[:-1]
    assert generation.quotes[0].score == pytest.approx(best, abs=1e-4)
    assert scores[ids] == pytest.approx(best, abs=1e-4)
    check(generation, documents)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_kernels_without_grouping_agree(tiny: GritLM, dtype: str) -> None:
    """The search writes additive masks, which every kernel that takes a mask understands."""
    both = [GritLM(tiny.source, dtype=dtype, attn_implementation=name) for name in ("eager", "sdpa")]
    first, second = (quoted(grit, DOCUMENTS, method="spans").quotes[0].score for grit in both)
    assert first == pytest.approx(second, abs=1e-4 if dtype == "float32" else 0.1)


def test_a_kernel_without_masks_is_refused(tiny: GritLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny.lm.config, "_attn_implementation", "flash_attention_2")
    with pytest.raises(OptionError, match="sdpa"):
        quoted(tiny, DOCUMENTS, method="spans")


def test_greedy_quotes_never_beat_the_best_span(grit: GritLM) -> None:
    for question in ("What pumps blood?", "How long is a month?", "Who?"):
        greedy = quoted(grit, DOCUMENTS, question)
        best = quoted(grit, DOCUMENTS, question, method="spans")
        if len(greedy.token_ids) <= 24 and greedy.finish_reason == "stop":
            assert best.quotes[0].score >= greedy.quotes[0].score - 1e-4


@pytest.mark.parametrize("kind", ["mixtral", "llama", "qwen3"])
def test_other_models_score_spans_as_brute_force_does(tmp_path: Path, kind: str) -> None:
    extra = {"num_local_experts": 4} if kind == "mixtral" else {"head_dim": 16} if kind == "qwen3" else {}
    grit = GritLM.from_pretrained(write_checkpoint(tmp_path / kind, kind, seed=1, layers=3, **extra))
    documents = ["the heart pumps the blood of the Moon", "the Moon pumps"]
    scores = brute_force(grit, documents, 24, Quoting().length_penalty)
    generation = quoted(grit, documents, method="spans")
    assert generation.quotes[0].score == pytest.approx(max(scores.values()), abs=1e-4)


@pytest.mark.parametrize("precision", ["native", "int8"])
@pytest.mark.parametrize("method", QUOTE_METHODS)
@pytest.mark.parametrize("mode", CACHINGS)
def test_a_hit_quotes_as_a_miss_does(tiny: GritLM, method: str, mode: Caching, precision: Any) -> None:
    documents = [HEART * 4, MOON * 4]
    store = KVCacheStore(None, precision=precision)
    grit = GritLM(tiny.source, kv_store=store)
    runs = [quoted(grit, documents, method=method, caching=mode, logprobs=0) for _ in range(3)]
    fresh = GritLM(tiny.source, kv_store=KVCacheStore(None, precision=precision))
    quoted(fresh, documents[::-1], method=method, caching=mode)
    runs.append(quoted(fresh, documents, method=method, caching=mode, logprobs=0))
    assert all(run.quotes == runs[0].quotes and run.logprobs == runs[0].logprobs for run in runs)
    if mode != "off":
        assert runs[1].cache.hits > 0 and runs[1].cache.misses == 0


def test_a_quote_leaves_nothing_else_behind_in_the_cache(tiny: GritLM) -> None:
    """Sentences are embedded to be picked, and read by nobody else."""
    store = KVCacheStore(None)
    grit = GritLM(tiny.source, kv_store=store, caching="doc")
    quoted(grit, DOCUMENTS, caching="doc")
    before = store.stats()
    quoted(grit, DOCUMENTS, caching="doc", sentences=2)
    assert store.stats().ram_blocks == before.ram_blocks


def test_other_generations_run_between_the_chunks_of_a_search(tiny: GritLM) -> None:
    async def run() -> list[Generation]:
        search = tiny.agenerate("Who?", [HEART * 8], decoding=Decoding(quote=Quoting(method="spans")))
        free = tiny.agenerate("hello", decoding=Decoding(max_new_tokens=5))
        return list(await asyncio.gather(search, free))

    search, free = asyncio.run(run())
    assert free.text == tiny.generate("hello", decoding=Decoding(max_new_tokens=5)).text
    assert search.text == tiny.generate("Who?", [HEART * 8], decoding=Decoding(quote=Quoting(method="spans"))).text


def test_only_picked_sentences_are_quoted(mini: GritLM) -> None:
    documents = [
        "The Moon orbits Earth. Its distance grows by 3.8 centimeters per year. Apollo 11 left mirrors there.",
        "Beaver hats were popular apparel. Silk hats became the rage in the 1850s.",
    ]
    (quote,) = quoted(mini, documents, "When did hats of silk become the rage?", sentences=1, method="spans").quotes
    sentence = "Silk hats became the rage in the 1850s."
    assert quote.document == 1 and quote.start >= documents[1].index(sentence) and quote.text in sentence
    assert quote.within == (documents[1].index(sentence), len(documents[1]))
    (quote,) = quoted(
        mini, documents, "When did hats of silk become the rage?", sentences=1, neighbours=2, method="spans"
    ).quotes
    assert quote.within == (0, len(documents[1]))
    assert quoted(mini, documents).quotes[0].within is None


def test_whole_sentences_are_quoted(mini: GritLM) -> None:
    documents = [
        "The Moon orbits Earth. Its distance grows by 3.8 centimeters per year. Apollo 11 left mirrors there.",
        "Beaver hats were popular apparel. Silk hats became the rage in the 1850s.",
    ]
    question = "When did hats of silk become the rage?"
    answer = quoted(mini, documents, question, method="sentences", sentences=1)
    assert answer.text == "Silk hats became the rage in the 1850s." and answer.finish_reason == "stop"
    assert answer.quotes[0].within == (answer.quotes[0].start, answer.quotes[0].end)
    both = quoted(mini, documents, question, method="sentences", sentences=1, neighbours=2, max_new_tokens=64)
    assert both.text == documents[1]
    short = quoted(mini, documents, question, method="sentences", sentences=1, max_new_tokens=8)
    assert short.finish_reason == "length" and answer.text.startswith(short.text)


@pytest.mark.parametrize("penalty", [0.0, 0.3, 1.0])
def test_the_model_chooses_among_sentences_by_their_likelihood(grit: GritLM, penalty: float) -> None:
    documents = [HEART, MOON]
    prompt, eos = prompt_ids(grit, documents), grit.checkpoint.tokenizer.eos_id
    scores = {}
    for document in documents:
        for start, end in pieces(document, 1):
            text = document[start:end] if end in word_boundaries(document).ends else document[start : end - 1]
            ids = grit.tokenize(text)
            with torch.inference_mode():
                rows = grit.lm(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 :].log_softmax(-1)
            said = sum(float(row[token]) for row, token in zip(rows, [*ids, eos], strict=True))
            scores[text] = said / len(ids) ** penalty
    answer = quoted(grit, documents, method="sentences", length_penalty=penalty, max_new_tokens=64)
    assert answer.text == max(scores, key=scores.__getitem__)
    assert answer.quotes[0].score == pytest.approx(scores[answer.text], abs=1e-4)


def test_documents_without_sentences_are_quoted_all_the_same(tiny: GritLM) -> None:
    check(quoted(tiny, ["Blood"], sentences=2), ["Blood"])


@pytest.mark.parametrize(
    ("documents", "options", "error", "message"),
    [
        ([], {}, OptionError, "without any document"),
        (["...", "— !"], {}, PromptError, "no word to quote"),
        (["..."], {"method": "spans"}, PromptError, "no word to quote"),
        (["antidisestablishmentarianism"], {"max_new_tokens": 1}, OptionError, "max_new_tokens=1 is too few"),
        (["antidisestablishmentarianism"], {"method": "spans", "longest": 1}, OptionError, "longest=1 is too few"),
    ],
)
def test_what_cannot_be_quoted_is_refused_before_any_work(
    tiny: GritLM, documents: list[str], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        quoted(GritLM(tiny.source), documents, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quote": "yes"}, "quote='yes'"),
        ({"quote": Quoting(method="spans"), "temperature": 0.5}, "temperature"),
        ({"quote": Quoting(method="spans"), "repetition_penalty": 1.2}, "repetition_penalty"),
        ({"quote": Quoting(method="sentences"), "temperature": 0.5}, "temperature"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Decoding(**options)


@pytest.mark.parametrize("options", [{"method": "beam"}, {"sentences": -1}, {"longest": 0}, {"length_penalty": -0.1}])
def test_quoting_checks_its_options(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        Quoting(**options)


def test_true_means_the_defaults() -> None:
    assert Decoding(quote=True) == Decoding(quote=Quoting())
    assert Decoding(quote=True).quoting == Quoting() and Decoding().quoting is None


@pytest.mark.parametrize("method", ["tokens", "spans"])
def test_without_echo_no_quote_begins_with_a_word_of_the_question(tiny: GritLM, method: QuoteMethod) -> None:
    document = "Distant stars burn hydrogen."
    for question in ("Which distant stars?", "What do STARS burn?"):
        quoting = Quoting(method=method, echo=False)
        answer = tiny.generate(question, [document], decoding=Decoding(quote=quoting, max_new_tokens=24))
        first = answer.text.split()[0].strip(".").lower()
        assert first not in question.lower().split()
    everything = Decoding(quote=Quoting(method=method, echo=False), max_new_tokens=24)
    answer = tiny.generate("distant stars burn hydrogen", [document], decoding=everything)
    assert answer.text in document  # all words are the question's: then any may be quoted
