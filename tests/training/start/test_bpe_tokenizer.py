"""The trainer's tokenizer: a word has the same pieces wherever it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from grit_integrations.prompts.formats import MARKERS
from grit_integrations.training.start.bpe_tokenizer import WHOLE_WORDS, load_tokenizer, train_tokenizer

CORPUS = Path(__file__).parents[3] / "examples" / "corpus"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    texts = [path.read_text(encoding="utf-8") for path in sorted(CORPUS.rglob("*.md"))]
    return train_tokenizer(texts, vocab_size=4000, context=512)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(categories=["L"], max_codepoint=0x24F), min_size=1, max_size=14))
def test_a_word_behind_a_space_differs_in_its_first_token_alone(tokenizer: PreTrainedTokenizerFast, word: str) -> None:
    alone = tokenizer.tokenize(word)
    spaced = tokenizer.tokenize(f" {word}")
    if spaced[0] == "Ġ":  # a first piece so rare that it has no twin with the space
        assert spaced[1:] == alone
    else:
        assert [spaced[0].removeprefix("Ġ"), *spaced[1:]] == alone


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_every_text_comes_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False).input_ids
    if not any(marker in text for marker in (*MARKERS, "<s>", "</s>", "<pad>")):
        assert tokenizer.decode(ids) == text.encode("utf-8", "replace").decode()


def test_markers_verdicts_digits_and_newlines_stand_alone(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    assert len(tokenizer) == 4000
    for marker in MARKERS:
        assert len(tokenizer(marker, add_special_tokens=False).input_ids) == 1
    for word in WHOLE_WORDS:
        assert tokenizer.tokenize(word) == [word]
        assert tokenizer.tokenize(f" {word}") == [f"Ġ{word}"]
    assert tokenizer.tokenize("1066") == list("1066")
    assert tokenizer.tokenize("a\nb") == ["a", "Ċ", "b"]
    tokenizer.save_pretrained(tmp_path)
    text = "The Norman conquest, in 1066.\n"
    assert load_tokenizer(tmp_path)(text).input_ids == tokenizer(text).input_ids
