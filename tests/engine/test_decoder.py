"""Decoding equals transformers' `generate`; options, stop strings and streams do what they say."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import write_checkpoint
from hypothesis import given
from hypothesis import strategies as st

from grit_integrations import ContextOverflowError, Decoding, Generation, GritLM, OptionError
from grit_integrations.engine.decoder import StopText
from grit_integrations.engine.detokenizer import Detokenizer
from grit_integrations.kv.cache import preallocated_cache
from grit_integrations.prompts.formats import merge_turns
from grit_integrations.prompts.layout import lay_out
from grit_integrations.prompts.plan import plan_prompt

PROMPTS = ["hello", "Tell me a story about the sea.", "word " * 300, "Wie geht es dir? 你好 🌊"]


def prompt_ids(grit: GritLM, prompt: str) -> torch.Tensor:
    return torch.tensor([plan_prompt(lay_out(merge_turns(prompt)), grit.checkpoint.tokenizer).prompt_ids])


def transformers_generate(grit: GritLM, prompt: str, **options: Any) -> list[int]:
    lm: Any = grit.lm
    ids = prompt_ids(grit, prompt)
    output = lm.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **options)
    return list(output[0, ids.shape[1] :].tolist())


@pytest.fixture(scope="module", params=["mistral", "mixtral", "llama", "qwen3"])
def grit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GritLM:
    kind = request.param
    extra = {"num_local_experts": 4} if kind == "mixtral" else {"head_dim": 16} if kind == "qwen3" else {}
    return GritLM.from_pretrained(
        write_checkpoint(tmp_path_factory.mktemp(kind) / kind, kind, seed=1, layers=3, **extra)
    )


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_equals_transformers_generate(grit: GritLM, prompt: str) -> None:
    ours = grit.generate(prompt, decoding=Decoding(max_new_tokens=40))
    assert list(ours.token_ids) == transformers_generate(grit, prompt, max_new_tokens=40, do_sample=False)


def test_repetition_penalty_equals_transformers_generate(grit: GritLM) -> None:
    ours = grit.generate("hello", decoding=Decoding(max_new_tokens=30, repetition_penalty=1.4))
    wanted = transformers_generate(grit, "hello", max_new_tokens=30, do_sample=False, repetition_penalty=1.4)
    assert list(ours.token_ids) == wanted


def test_the_cache_outgrows_its_reserve_without_changing_a_token(grit: GritLM) -> None:
    ours = grit.generate("hello", decoding=Decoding(max_new_tokens=600))
    assert list(ours.token_ids) == transformers_generate(grit, "hello", max_new_tokens=600, do_sample=False)


def test_end_of_text_ends_the_answer(grit: GritLM) -> None:
    """Whatever token comes third is declared the end of text: the answer must stop there."""
    free = grit.generate("hello", decoding=Decoding(max_new_tokens=6))
    decoder = grit._loaded().decoder
    before = decoder.end_ids
    decoder.end_ids = frozenset([free.token_ids[2]])
    try:
        ended = grit.generate("hello", decoding=Decoding(max_new_tokens=6))
    finally:
        decoder.end_ids = before
    assert ended.finish_reason == "stop" and ended.token_ids == free.token_ids[:3]
    assert ended.text == grit.checkpoint.tokenizer.decode(free.token_ids[:2])


def test_sampling_is_repeatable_with_a_seed_and_varies_without(tiny: GritLM) -> None:
    def sample(**options: Any) -> tuple[int, ...]:
        return tiny.generate("hello", decoding=Decoding(max_new_tokens=12, temperature=1.5, **options)).token_ids

    assert sample(seed=7) == sample(seed=7)
    assert len({sample() for _ in range(4)}) > 1
    assert sample(seed=7) != sample(seed=8)


def test_sampling_keeps_to_top_k_and_top_p(tiny: GritLM) -> None:
    greedy = tiny.generate("hello", decoding=Decoding(max_new_tokens=12)).token_ids
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}):
        sampled = tiny.generate("hello", decoding=Decoding(max_new_tokens=12, temperature=2.0, seed=0, **narrow))
        assert sampled.token_ids == greedy


def test_sampled_frequencies_follow_the_model(tiny: GritLM) -> None:
    logits = tiny.lm(input_ids=prompt_ids(tiny, "hello")).logits[0, -1].float()
    wanted = torch.softmax(logits / 0.7, -1).topk(3)
    drawn = [
        tiny.generate("hello", decoding=Decoding(max_new_tokens=1, temperature=0.7, seed=seed)).token_ids[0]
        for seed in range(400)
    ]
    for token, share in zip(wanted.indices.tolist(), wanted.values.tolist(), strict=True):
        assert abs(drawn.count(token) / 400 - share) < 4 * (share * (1 - share) / 400) ** 0.5 + 1e-3


def test_logprobs_are_the_model_s(tiny: GritLM) -> None:
    result = tiny.generate("hello", decoding=Decoding(max_new_tokens=4, logprobs=3))
    ids = torch.cat([prompt_ids(tiny, "hello")[0], torch.tensor(result.token_ids)])
    scores = torch.log_softmax(tiny.lm(input_ids=ids[None]).logits[0].float(), -1)
    start = len(ids) - 4
    assert len(result.logprobs) == 4
    for step, entry in enumerate(result.logprobs):
        row = scores[start + step - 1]
        assert entry.token_id == result.token_ids[step]
        assert entry.logprob == pytest.approx(float(row[entry.token_id]), abs=1e-4)
        assert [value for _, value in entry.alternatives] == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)


def test_stream_and_generate_agree(tiny: GritLM) -> None:
    decoding = Decoding(max_new_tokens=50)
    chunks = list(tiny.stream("Tell me more", decoding=decoding))
    whole = tiny.generate("Tell me more", decoding=decoding)
    final = chunks[-1].generation
    assert isinstance(final, Generation)
    assert [chunk.generation for chunk in chunks[:-1]] == [None] * 49
    assert "".join(chunk.text for chunk in chunks) == whole.text == final.text
    assert whole.text == tiny.checkpoint.tokenizer.decode(whole.token_ids)
    assert final.usage.completion_tokens == 50 and final.usage.prompt_tokens == len(prompt_ids(tiny, "Tell me more")[0])


async def test_async_forms_agree_with_sync(tiny: GritLM) -> None:
    decoding = Decoding(max_new_tokens=20)
    stream = await tiny.astream("Tell me more", decoding=decoding)
    text = "".join([chunk.text async for chunk in stream])
    assert text == (await tiny.agenerate("Tell me more", decoding=decoding)).text
    assert text == tiny.generate("Tell me more", decoding=decoding).text


def test_a_stop_string_across_tokens_ends_the_text(tiny: GritLM) -> None:
    free = tiny.generate("Tell me", decoding=Decoding(max_new_tokens=30))
    middle = free.text[8:20]
    chunks = list(tiny.stream("Tell me", decoding=Decoding(max_new_tokens=30, stop=(middle,))))
    final = chunks[-1].generation
    assert final is not None and final.finish_reason == "stop"
    assert final.text == free.text[:8] == "".join(chunk.text for chunk in chunks)


@given(
    text=st.text("abAB \n", max_size=30),
    stops=st.lists(st.text("abAB", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 30), max_size=8),
)
def test_stop_text_equals_searching_the_whole(text: str, stops: list[str], cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    stop, shown = StopText(stops), ""
    for left, right in pairwise(edges):
        shown += stop.push(text[left:right])
        assert stop.found or not any(word in shown for word in stops)
        if stop.found:
            break
    shown += stop.flush()
    # Streaming cuts at the first stop string that becomes complete, so nothing shown is ever taken back.
    ends = [text.find(word) + len(word) for word in stops if word in text]
    assert stop.found == bool(ends)
    assert text.startswith(shown) and (ends or shown == text)
    assert not any(word in shown for word in stops)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"max_new_tokens": 2.5}, "max_new_tokens=2.5"),
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_p": 0}, "top_p=0"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"top_k": -1}, "top_k=-1"),
        ({"seed": -1}, "seed=-1"),
        ({"repetition_penalty": 0}, "repetition_penalty=0"),
        ({"stop": ("",)}, "stop="),
        ({"logprobs": -1}, "logprobs=-1"),
    ],
)
def test_impossible_options_are_refused_when_made(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        Decoding(**options)


def test_overflow_names_both_numbers(tiny: GritLM) -> None:
    with pytest.raises(ContextOverflowError, match=r"3,9.. of the model's 4,096"):
        tiny.generate("word " * 4000, decoding=Decoding(max_new_tokens=100))
    with pytest.raises(ContextOverflowError, match="max_new_tokens=5000"):
        tiny.generate("hello", decoding=Decoding(max_new_tokens=5000))
    with pytest.raises(ContextOverflowError, match="at least"):
        tiny.generate("x" * 10_000_000)


def test_preallocated_cache_grows_and_keeps_its_content() -> None:
    cache = preallocated_cache([torch.device("cpu")], torch.float32, capacity=4)
    torch.manual_seed(0)
    pieces = [torch.randn(1, 2, n, 8) for n in (3, 1, 1, 9, 1)]
    for piece in pieces:
        keys, values = cache.update(piece, piece * 2, 0)
    whole = torch.cat(pieces, dim=2)
    assert torch.equal(keys, whole) and torch.equal(values, whole * 2)
    assert cache.get_seq_length() == 15


def test_decoding_at_a_long_context_writes_in_place(tiny: GritLM, tmp_path: Path) -> None:
    cache = preallocated_cache([torch.device("cpu")], torch.float32, capacity=100)
    keys, _ = cache.update(torch.zeros(1, 2, 50, 8), torch.zeros(1, 2, 50, 8), 0)
    address = keys.data_ptr()
    for _ in range(50):
        keys, _ = cache.update(torch.ones(1, 2, 1, 8), torch.ones(1, 2, 1, 8), 0)
    assert keys.data_ptr() == address


@given(ids=st.lists(st.integers(3, 31999) | st.integers(3, 258), min_size=1, max_size=12))
def test_text_comes_piece_by_piece_whatever_the_tokens_are(tiny: GritLM, ids: list[int]) -> None:
    """Ids 3 to 258 are single bytes: most runs of them form no character."""
    detokenizer = Detokenizer(tiny.checkpoint.tokenizer.hf.backend_tokenizer)
    text = "".join([detokenizer.push(token) for token in ids]) + detokenizer.flush()
    whole = tiny.checkpoint.tokenizer.decode(ids)
    assert not text.endswith("\ufffd")
    if "\ufffd" not in text + whole:
        assert text == whole


@pytest.mark.parametrize("character", ["é", "€", "😀"])
def test_a_character_that_the_end_cuts_in_two_is_left_out(tiny: GritLM, character: str) -> None:
    tokenizer = tiny.checkpoint.tokenizer.hf.backend_tokenizer
    ids = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in character.encode()]
    word = tiny.tokenize("word")
    for kept in range(len(ids) + 1):
        detokenizer = Detokenizer(tokenizer)
        text = "".join([detokenizer.push(token) for token in [*word, *ids[:kept]]]) + detokenizer.flush()
        assert text == ("word" + character if kept == len(ids) else "word")
