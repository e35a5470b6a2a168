"""Batches of pairs: exact ids, what is pooled, and which share of a batch a process has."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from grit_integrations.evaluation.labelled_texts import PromptEncoder
from grit_integrations.evaluation.row_kinds import Pair
from grit_integrations.prompts.formats import MARKERS
from grit_integrations.training.rows.batches import (
    ContrastiveBatch,
    Processes,
    contrastive_batch,
    embedding_inputs,
    sample_pair,
)
from grit_integrations.training.start.bpe_tokenizer import train_tokenizer

TEXTS = ["The river bends north of the old mill.", "In 1984 the mill had 12 wheels.\nIt closed later."] * 5


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    path = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TEXTS, vocab_size=320, context=128).save_pretrained(path)
    return AutoTokenizer.from_pretrained(path)


@pytest.fixture(scope="module")
def encoder(tokenizer: PreTrainedTokenizerFast) -> PromptEncoder:
    return PromptEncoder(tokenizer)


def ids(tokenizer: PreTrainedTokenizerFast, text: str, bos: bool = False) -> list[int]:
    return tokenizer(text, add_special_tokens=bos)["input_ids"]


def test_the_saved_tokenizer_has_one_id_per_marker_and_pads_on_the_right(tokenizer: PreTrainedTokenizerFast) -> None:
    assert all(len(ids(tokenizer, marker)) == 1 for marker in MARKERS)
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3
    assert tokenizer.padding_side == "right"
    assert tokenizer.model_max_length == 128
    assert ids(tokenizer, "mill", bos=True) == [tokenizer.bos_token_id, *ids(tokenizer, "mill")]
    assert ids(tokenizer, "1984")[-4:] == [tokenizer.convert_tokens_to_ids(digit) for digit in "1984"]


any_text = st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: "<" not in text)


@settings(deadline=None)
@given(before=any_text, after=any_text)
def test_a_newline_separates_segments(tokenizer: PreTrainedTokenizerFast, before: str, after: str) -> None:
    for lead in ("<|embed|>\n", "<|user|>\n", f"{before}\n"):
        assert ids(tokenizer, lead + after) == ids(tokenizer, lead) + ids(tokenizer, after)
    trail = "\n<|assistant|>\n"
    assert ids(tokenizer, before + trail) == ids(tokenizer, before) + ids(tokenizer, trail)


@settings(deadline=None)
@given(text=any_text)
def test_any_text_survives_the_round_trip(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(ids(tokenizer, text)) == text


def test_embedding_prompts_pool_the_text_alone(encoder: PromptEncoder, tokenizer: PreTrainedTokenizerFast) -> None:
    batch = embedding_inputs(encoder, ["the mill", " a river bends"], instruction="Find it", longest=64)
    for row, text in enumerate(["the mill", " a river bends"]):
        whole = ids(tokenizer, f"<|user|>\nFind it\n<|embed|>\n{text}", bos=True)
        assert batch.ids[row][batch.attended[row].bool()].tolist() == whole
        assert batch.ids[row][batch.sample[row].bool()].tolist() == ids(tokenizer, text)
    assert batch.ids[0][batch.attended[0] == 0].tolist() == [tokenizer.pad_token_id] * int(
        (batch.attended[0] == 0).sum()
    )
    bare = embedding_inputs(encoder, ["the mill"], instruction="", longest=64)
    assert bare.ids[0].tolist() == ids(tokenizer, "<|embed|>\nthe mill", bos=True)


def test_batches_cut_to_length_and_number_equal_passages(encoder: PromptEncoder) -> None:
    pairs = [Pair("I", "where", ("north",), ("south",)), Pair("I", "when", ("later",)), Pair("I", "how", ("north",))]
    batch = contrastive_batch(encoder, pairs, query_tokens=3, passage_tokens=4, instructed=False)
    assert batch.texts.tolist() == [0, 1, 0, 2]
    assert int(batch.queries.sample.sum(dim=1).max()) <= 3
    assert int(batch.passages.sample.sum(dim=1).max()) <= 4


def test_every_text_has_its_own_instruction(encoder: PromptEncoder) -> None:
    batch = embedding_inputs(
        encoder, ["the mill", "a river", "the mill"], instruction=["Find it", "", "Find"], longest=9
    )
    for row, (text, instruction) in enumerate([("the mill", "Find it"), ("a river", ""), ("the mill", "Find")]):
        alone = embedding_inputs(encoder, [text], instruction=instruction, longest=9)
        width = alone.ids.shape[1]
        assert batch.ids[row, :width].tolist() == alone.ids[0].tolist()
        assert batch.sample[row, :width].tolist() == alone.sample[0].tolist()
        assert batch.attended[row].sum() == width
    pair = Pair("Q", "where", ("north",), ("south",), ("P", "N"))
    found = contrastive_batch(encoder, [pair], query_tokens=9, passage_tokens=9, instructed=True).passages
    assert (
        found.ids.tolist()
        == embedding_inputs(encoder, ["north", "south"], instruction=["P", "N"], longest=9).ids.tolist()
    )


def test_a_step_draws_one_positive_and_some_negatives() -> None:
    pair = Pair("Q", "q", ("p0", "p1"), ("n0", "n1", "n2"), ("i0", "i1", "j0", "j1", "j2"))
    drawn = [sample_pair(pair, random.Random(seed), negatives=2) for seed in range(40)]
    assert {each.positives for each in drawn} == {("p0",), ("p1",)}
    assert {each.negatives for each in drawn} == {("n0", "n1"), ("n0", "n2"), ("n1", "n2")}
    for each in drawn:
        texts = each.positives + each.negatives
        assert each.passage_instructions == tuple({"p": "i", "n": "j"}[text[0]] + text[1] for text in texts)
    assert sample_pair(pair, random.Random(0), negatives=None).negatives == pair.negatives
    assert sample_pair(pair, random.Random(0), negatives=0).negatives == ()
    assert drawn[7] == sample_pair(pair, random.Random(7), negatives=2)


def test_processes_share_a_batch(encoder: PromptEncoder) -> None:
    pairs = [Pair("", f"q{n}", (f"p{n % 4}",), ("north",) * (n % 3)) for n in range(5)]

    def part(processes: Processes | None) -> ContrastiveBatch:
        return contrastive_batch(encoder, pairs, query_tokens=9, passage_tokens=9, instructed=True, processes=processes)

    whole, shares = part(None), [part(Processes(index, 2)) for index in range(2)]
    assert [len(share.queries.ids) for share in shares] == [3, 2]
    assert [len(share.passages.ids) for share in shares] == [3 + 3, 2 + 1]
    assert all((share.pairs, share.negatives) == ((3, 2), (3, 1)) for share in shares)
    assert all(share.texts.tolist() == [0, 1, 0, 2, 3, 4, 4, 4, 4] for share in shares)
    assert whole.texts.tolist() == [0, 1, 2, 3, 0, 4, 4, 4, 4]
