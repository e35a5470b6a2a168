"""Replies of a chat model to general instructions: which are asked, and what becomes of what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoints import write_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from grit_integrations import DataError
from grit_integrations.training.prepare.replies import glossary_terms, instructions, replies, whole_sentences

TEMPLATE = "{% for turn in messages %}[{{ turn.role }}] {{ turn.content }}\n{% endfor %}[assistant] "


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_topic_is_a_term_of_the_glossaries(tmp_path: Path) -> None:
    terms = [{"query": ["Given a term, retrieve its definition", term], "pos": ["..."]} for term in ("osmosis", "atom")]
    write(tmp_path / "embedding" / "glossary--biology.jsonl", terms)
    write(tmp_path / "embedding" / "pairs.jsonl", [{"query": "no term", "pos": ["..."]}])
    assert glossary_terms(tmp_path / "embedding") == ["atom", "osmosis"]
    rows = [{"instruction": "What is {topic}?"}, {"instruction": "Hello!"}]
    path = write(tmp_path / "instructions.jsonl", rows)
    asked = instructions(path, glossary_terms(tmp_path / "embedding"), count=10, seed=0)
    assert asked[0] == "Hello!"
    assert set(asked[1:]) == {"What is osmosis?", "What is atom?"}
    assert instructions(path, glossary_terms(tmp_path / "embedding"), count=2, seed=0) == asked[:2]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": " "}, 'line 1: "instruction" must be text'),
        ({"instruction": "{topic}?"}, "with terms. Add one"),
    ],
)
def test_what_cannot_be_asked_is_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        instructions(write(tmp_path / "instructions.jsonl", [row]), [], count=1, seed=0)


def test_a_model_replies_under_its_own_template(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "model")  # random weights: what it says means nothing
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.chat_template = TEMPLATE
    tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    asked = ["What is an atom?", "Hello!", "Why?"]
    said = list(replies(model, tokenizer, asked, seed=0))
    assert said == list(replies(model, tokenizer, asked, seed=0))
    assert {instruction for instruction, _ in said} <= set(asked)
    assert all(reply == whole_sentences(reply) != "" for _, reply in said)


@given(st.text(alphabet="ab .!?\n:`", max_size=40))
def test_a_reply_is_a_beginning_that_ends_a_sentence(text: str) -> None:
    whole = whole_sentences(text)
    assert whole in text
    assert whole_sentences(whole) == whole
    assert not whole or whole[-1] in ".!?`"
