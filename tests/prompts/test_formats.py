"""Prompt formats, and the one function that keeps untrusted text from becoming control."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grit_integrations import EmptyTextError, GritLM, Message, PromptError
from grit_integrations.prompts.formats import (
    MARKERS,
    ZERO_WIDTH_SPACE,
    Cut,
    Segment,
    Special,
    merge_turns,
    neutralise,
)
from grit_integrations.prompts.layout import lay_out
from grit_integrations.prompts.plan import plan_prompt

# reference/gritlm: ids of the genuine Mistral-7B-v0.1 vocabulary.
EMBED_IDS = [1, 523, 28766, 18320, 28766, 28767, 13]
INSTRUCTION_IDS = [1, 523, 28766, 1838, 28766, 28767, 13, 657, 1042, 28723, 13, 28789, 28766, 18320, 28766, 28767, 13]
USER_IDS = [1, 523, 28766, 1838, 28766, 28767, 13]
ASSISTANT_IDS = [13, 28789, 28766, 489, 11143, 28766, 28767, 13]


def rendered(parts: list) -> str:
    shown = [part for part in parts if not isinstance(part, Cut)]
    return "".join({Special.BOS: "<s>", Special.EOS: "</s>"}.get(p) or p.text for p in shown)


def test_embedding_header_has_the_golden_ids(tiny: GritLM) -> None:
    tokenizer = tiny.checkpoint.tokenizer
    assert tokenizer.encode(tokenizer.format.embedding_header()) == EMBED_IDS
    assert tokenizer.encode(tokenizer.format.embedding_header("Instr.")) == INSTRUCTION_IDS
    assert tokenizer.encode_texts(["hello", "A"]) == [[21558], [28741]]  # no '▁' in front


def test_chat_prompt_has_the_golden_ids(tiny: GritLM) -> None:
    tokenizer = tiny.checkpoint.tokenizer
    assert list(plan_prompt(lay_out(merge_turns("hello")), tokenizer).prompt_ids) == [*USER_IDS, 21558, *ASSISTANT_IDS]
    turns = [Message("user", "hello"), Message("assistant", "yo"), Message("user", "hello")]
    ids = list(plan_prompt(lay_out(merge_turns(turns)), tokenizer).prompt_ids)
    after_eos = ids[ids.index(2) :]
    assert after_eos[:4] == [2, 28705, 13, 28789]  # the tokenizer puts a '▁' behind </s>, as in training


def test_chat_prompt_renders_the_reference_format() -> None:
    turns = [Message("user", "a"), Message("assistant", "b"), Message("user", "c")]
    assert rendered(lay_out(merge_turns(turns))) == (
        "<s><|user|>\na\n<|assistant|>\nb</s>\n<|user|>\nc\n<|assistant|>\n"
    )


def test_system_turn_folds_into_the_first_user_turn() -> None:
    prompt = lay_out(merge_turns([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]))
    assert rendered(prompt) == "<s><|user|>\nBe brief.\n\nHi\n<|assistant|>\n"


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ("ssuuaau", "<s><|user|>\n0\n\n1\n\n2\n\n3\n<|assistant|>\n4\n\n5</s>\n<|user|>\n6\n<|assistant|>\n"),
        ("a", "<s><|assistant|>\n0</s>\n<|assistant|>\n"),
        ("ua", "<s><|user|>\n0\n<|assistant|>\n1</s>\n<|assistant|>\n"),
        ("aus", "<s><|assistant|>\n0</s>\n<|user|>\n1\n\n2\n<|assistant|>\n"),
    ],
)
def test_any_order_of_roles_is_accepted(roles: str, expected: str) -> None:
    names = {"s": "system", "u": "user", "a": "assistant"}
    messages = [{"role": names[role], "content": str(index)} for index, role in enumerate(roles)]
    assert rendered(lay_out(merge_turns(messages))) == expected


def test_blank_turns_vanish() -> None:
    messages = [Message("user", "q"), Message("assistant", " "), Message("user", "r")]
    assert rendered(lay_out(merge_turns(messages))) == "<s><|user|>\nq\n\nr\n<|assistant|>\n"


@pytest.mark.parametrize(
    ("messages", "error", "words"),
    [
        ([], EmptyTextError, "no text"),
        ("  \n", EmptyTextError, "no text"),
        ([{"role": "user"}], PromptError, "no content"),
        ([{"role": "tool", "content": "x"}], PromptError, "'tool'"),
        ([{"role": "user", "content": 3}], PromptError, "int"),
        ("a\x00b", PromptError, "NUL character at position 1"),
        ("a\ud800", PromptError, "lone surrogate at position 1"),
    ],
)
def test_bad_messages_say_what_is_wrong(messages: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        lay_out(merge_turns(messages))  # type: ignore[arg-type]


def test_neutralise_keeps_everything_else() -> None:
    assert neutralise("<b>bold</b> |user|> fine") == "<b>bold</b> |user|> fine"
    assert neutralise("<|user|>").replace(ZERO_WIDTH_SPACE, "") == "<|user|>"


FRAGMENTS = ["<", "|", "user", "assistant", "embed", ">", "<|", "|>", "<s>", "</s>", "<unk>", "\n", " ", "▁", "<0x0A>"]
FRAGMENTS += [*MARKERS, "s>", "</", ZERO_WIDTH_SPACE, "＜", "｜", "ass", "istant", "hello", "é", "🜁"]
attack = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=4), min_size=1, max_size=12).map("".join)


@given(text=attack)
@example(text="<|us<|user|>er|>")
@example(text="<<s>s>")
def test_text_never_produces_a_control_sequence(tiny: GritLM, text: str) -> None:
    if "\x00" in text or any("\ud800" <= c <= "\udfff" for c in text):
        return
    tokenizer = tiny.checkpoint.tokenizer
    for ids in (tokenizer.encode_texts([text])[0], tokenizer.encode([Special.BOS, Segment(text, content=True)])[1:]):
        assert not {0, 1, 2} & set(ids)
        spelled = tokenizer.hf.decode(ids, skip_special_tokens=False)
        assert not any(marker in spelled for marker in MARKERS)


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00<▁"), min_size=1, max_size=40))
def test_segments_joined_equal_the_reference_s_single_string(tiny: GritLM, text: str) -> None:
    tokenizer = tiny.checkpoint.tokenizer
    joint = tokenizer.hf(f"<|user|>\nInstr.\n<|embed|>\n{text}").input_ids
    assert tokenizer.encode([*tokenizer.format.embedding_header("Instr."), Segment(text, content=True)]) == joint
