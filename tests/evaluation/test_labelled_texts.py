"""Texts and conversations as training and evaluation read them: exact ids, what is predicted, where they are cut."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from grit_integrations import GritLM, Message
from grit_integrations.evaluation.labelled_texts import IGNORED, PromptEncoder, text_batch
from grit_integrations.evaluation.row_kinds import TextRow
from grit_integrations.prompts.formats import merge_turns
from grit_integrations.prompts.layout import lay_out
from grit_integrations.prompts.plan import plan_prompt


@pytest.fixture(scope="module")
def encoder(mini: GritLM) -> PromptEncoder:
    return PromptEncoder(mini.checkpoint.tokenizer.hf)


@pytest.fixture(scope="module")
def tokenizer(encoder: PromptEncoder) -> PreTrainedTokenizerFast:
    return encoder.tokenizer


def ids(tokenizer: PreTrainedTokenizerFast, text: str, bos: bool = False) -> list[int]:
    return tokenizer(text, add_special_tokens=bos)["input_ids"]


def test_a_conversation_predicts_its_answers_and_their_ends(
    encoder: PromptEncoder, tokenizer: PreTrainedTokenizerFast
) -> None:
    found, labels = encoder.conversation(TextRow(("Where?", "North.", "When?", "1984")))
    end = tokenizer.eos_token_id
    first = ids(tokenizer, "<|user|>\nWhere?\n<|assistant|>\nNorth.", bos=True)
    second = ids(tokenizer, "\n<|user|>\nWhen?\n<|assistant|>\n1984")
    assert found == [*first, end, *second, end]
    answers = [*ids(tokenizer, "North."), end, *ids(tokenizer, "1984"), end]
    assert [label for label in labels if label != IGNORED] == answers
    assert all(label in (IGNORED, token) for token, label in zip(found, labels, strict=True))


def test_a_long_document_loses_its_beginning_and_never_the_answer(
    encoder: PromptEncoder, tokenizer: PreTrainedTokenizerFast
) -> None:
    text = TextRow((f"{'word ' * 60}\n\nWhere?", "North."))
    cut, labels = encoder.conversation(text, longest=40)
    whole, _ = encoder.conversation(text)
    header = ids(tokenizer, "<|user|>\n", bos=True)
    assert len(cut) == 40
    assert cut == header + whole[-(40 - len(header)) :]
    assert [label for label in labels if label != IGNORED] == [*ids(tokenizer, "North."), tokenizer.eos_token_id]


def test_plain_text_is_predicted_whole(encoder: PromptEncoder, tokenizer: PreTrainedTokenizerFast) -> None:
    found, labels = encoder.conversation(TextRow(("The river.",)))
    assert found == [*ids(tokenizer, "The river.", bos=True), tokenizer.eos_token_id]
    assert labels == [IGNORED, *found[1:]]


def test_a_batch_is_cut_to_length(encoder: PromptEncoder) -> None:
    assert text_batch(encoder, [TextRow(("word " * 100,))], longest=16).ids.shape == (1, 16)


def test_ids_are_those_of_inference_on_the_mistral_vocabulary(tiny: GritLM) -> None:
    """A SentencePiece vocabulary marks a text that stands alone: training must not see that mark inside a prompt."""
    encoder = PromptEncoder(tiny.checkpoint.tokenizer.hf)
    assert encoder.texts(["hello"]) == [[21558]]
    ids, labels = encoder.conversation(TextRow(("hello", "yo", "hello", "yo")))
    layout = lay_out(merge_turns([Message("user", "hello"), Message("assistant", "yo"), Message("user", "hello")]))
    prompt = list(plan_prompt(layout, tiny.checkpoint.tokenizer).prompt_ids)
    assert ids[: len(prompt)] == prompt
    answer = [*encoder.texts(["yo"])[0], 2]
    assert [label for label in labels if label != -100] == answer * 2
