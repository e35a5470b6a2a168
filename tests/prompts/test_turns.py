"""Turns cut out of chat templates: which ones, and what no text can do to them."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_models import ALPACA, FAMILIES, Family, write_chat_model
from hypothesis import given, settings
from hypothesis import strategies as st

from grit_integrations import DocBlocks, GritLM, ModelLoadError, PromptError
from grit_integrations.errors import CacheError
from grit_integrations.prompts.formats import Message, Segment, followed_by, with_words
from grit_integrations.prompts.tokenizer import PromptTokenizer

words = st.text(st.characters(categories=["L", "N", "P"], exclude_characters="▁<>|[]#"), min_size=1, max_size=8)
plain = st.lists(words, min_size=1, max_size=6).map(" ".join)


@pytest.fixture(scope="module", params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def grit(name: str, tmp_path_factory: pytest.TempPathFactory) -> GritLM:
    """A chat model of one family; no test here loads its weights."""
    return GritLM(write_chat_model(tmp_path_factory.mktemp("chat") / "model", FAMILIES[name], turns="chat_template"))


@pytest.fixture(scope="module")
def tokenizer(grit: GritLM) -> PromptTokenizer:
    return grit.checkpoint.tokenizer


def stock_ids(tokenizer: PromptTokenizer, messages: list[Message]) -> list[int]:
    shown = [{"role": each.role, "content": each.content} for each in messages]
    ids = tokenizer.hf.apply_chat_template(shown, add_generation_prompt=True, tokenize=True, return_dict=False)
    return list(ids)  # type: ignore[arg-type]


@settings(deadline=None)
@given(texts=st.lists(plain, min_size=1, max_size=5), told=st.none() | plain)
def test_a_conversation_has_the_ids_that_transformers_gives_it(
    name: str, grit: GritLM, tokenizer: PromptTokenizer, texts: list[str], told: str | None
) -> None:
    texts = texts if len(texts) % 2 else texts[:-1] or texts
    turns = [Message("assistant" if at % 2 else "user", text) for at, text in enumerate(texts)]
    if told is not None and FAMILIES[name].system:
        turns = [Message("system", told), *turns]
    assert list(grit.prompt(turns).plan.prompt_ids) == stock_ids(tokenizer, turns)


def test_what_a_family_is_known_for_is_found(name: str, tokenizer: PromptTokenizer) -> None:
    family, turns = FAMILIES[name], tokenizer.format.turns
    assert turns.has_system == family.system
    assert ("user" in turns.strips) == ("assistant" in turns.strips) == family.strips
    assert tokenizer.end_ids == {tokenizer.eos_id, tokenizer.hf.get_vocab()[family.end]}


def test_a_system_message_without_a_turn_of_its_own_is_the_user_s(name: str, grit: GritLM) -> None:
    told = grit.prompt([Message("system", "Be brief."), Message("user", "Who?")])
    roles = [turn.role for turn in told.turns]
    assert roles == (["system", "user"] if FAMILIES[name].system else ["user"])
    late = grit.prompt([Message("user", "Who?"), Message("system", "Be brief.")])
    assert late.turns == (Message("user", "Who?\n\nBe brief."),)
    alone = grit.prompt([Message("system", "Be brief.")])
    assert alone.turns == (Message("user", "Be brief."),)


def test_white_space_is_as_the_template_leaves_it(name: str, grit: GritLM) -> None:
    shown = [Message("user", "  Who? \n"), Message("assistant", " They. "), Message("user", "Why?")]
    stripped = [Message(turn.role, turn.content.strip()) for turn in shown]
    same = grit.prompt(shown).plan.prompt_ids == grit.prompt(stripped).plan.prompt_ids
    assert same == FAMILIES[name].strips


FRAGMENTS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "</s>",
    "<s>",
    "[INST]",
    "[/INST]",
    "[/",
    "INST]",
]
FRAGMENTS += [
    "### Response:",
    "### Instruction:",
    "###",
    "assistant",
    "model",
    "<|user|>",
    "<|embed|>",
    "\n",
    " ",
    "<",
    "|>",
]
attack = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), min_size=1, max_size=10).map("".join)


@settings(deadline=None)
@given(texts=st.lists(attack, min_size=3, max_size=3))
def test_no_text_can_write_a_turn(grit: GritLM, tokenizer: PromptTokenizer, texts: list[str]) -> None:
    """A prompt has the control tokens, and the markers spelled in words, of one that says nothing."""

    def control(said: list[str]) -> tuple[list[int], list[int]]:
        turns = [Message(role, text) for role, text in zip(("user", "assistant", "user"), said, strict=True)]
        ids = list(grit.prompt(turns).plan.prompt_ids)
        shown = tokenizer.hf.decode(ids, skip_special_tokens=False)
        spelled = [shown.count(word) for word in sorted(tokenizer.format.turns.control_words(()))]
        return [token for token in ids if token in tokenizer.control_ids], spelled

    filled = [text if text.strip() and "\x00" not in text else "x" for text in texts]
    assert control(filled) == control(["x", "x", "x"])


@settings(deadline=None)
@given(documents=st.lists(plain, min_size=1, max_size=3), question=plain, told=st.none() | plain)
def test_documents_that_are_read_by_themselves_stand_in_the_prompt_of_off(
    name: str, grit: GritLM, tokenizer: PromptTokenizer, documents: list[str], question: str, told: str | None
) -> None:
    own = grit.with_options(caching="doc", doc_blocks=DocBlocks(pattern="causal"))
    turns = [Message("user", question)] if told is None else [Message("system", told), Message("user", question)]
    if name == "mistral":
        with pytest.raises(CacheError, match=r"begins with '<s>\[INST\] ', which is tokenised together"):
            len(own.prompt(turns, documents))
        return
    plan = own.prompt(turns, documents).plan
    assert plan.prompt_ids == grit.prompt(turns, documents, caching="off").plan.prompt_ids
    alone = [block for block in plan.blocks if block.by_itself]
    header = tokenizer.encode(tokenizer.format.turns.opening())
    assert len(alone) == len(documents)
    assert all(list(block.ids[: len(header)]) == header for block in alone)


def test_conversations_that_a_template_does_not_write_are_refused(grit: GritLM) -> None:
    with pytest.raises(PromptError, match="no place for an assistant's turn at the beginning"):
        len(grit.prompt([Message("assistant", "Hi."), Message("user", "Who?")]))
    with pytest.raises(PromptError, match=r"no place for an answer behind an assistant's turn\. Let the user"):
        len(grit.prompt([Message("user", "Who?"), Message("assistant", "Hi.")]))


def written(folder: Path, template: str | None) -> GritLM:
    path = write_chat_model(
        folder / "model", Family(template or "", ("<|im_start|>", "<|im_end|>")), turns="chat_template"
    )
    if template is None:
        (path / "chat_template.jinja").unlink()
    return GritLM(path)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "the tokenizer has no chat template. Put the model's chat_template.jinja beside"),
        (
            "{% for m in messages %}{{ loop.index }}: {{ m['content'] }}\n{% endfor %}",
            "depends on which turns they are",
        ),
        ("{{ messages[-1]['content'] }}", "does not write a conversation of user and assistant"),
        ("{% for m in messages %}{{ m['content'] }} {{ m['content'] }}{% endfor %}", "each text once and in order"),
        ("{{ raise_exception('never') }}", "does not write a conversation of user and assistant"),
        ("{% for m in messages %}{{ m['content'].rstrip() }}\n{% endfor %}", "on one side only"),
        ("{% for m in messages %}{{ m['content'] }}. {% endfor %}", "in one piece and .* turn by turn"),
    ],
)
def test_templates_that_cannot_be_cut_are_refused_with_the_reason(
    template: str | None, reason: str, tmp_path: Path
) -> None:
    grit = written(tmp_path, template)
    with pytest.raises(ModelLoadError, match=f"(?s)turns='chat_template'.*{reason}"):
        grit.count_tokens("text")


def test_a_template_decides_the_fingerprint_where_it_is_used(tmp_path: Path) -> None:
    def fingerprint(name: str, template: str, **keys: str) -> str:
        return GritLM(write_chat_model(tmp_path / name, Family(template), **keys)).fingerprint

    other = ALPACA.replace("Response", "Reply")
    assert fingerprint("1", ALPACA) == fingerprint("2", other)
    assert fingerprint("3", ALPACA, turns="chat_template") != fingerprint("4", other, turns="chat_template")


def test_words_of_ours_join_what_stands_before_them() -> None:
    assert with_words([Segment("a")], "b") == [Segment("ab")]
    assert with_words([], "b") == [Segment("b")]
    assert with_words([Segment("a")], "") == [Segment("a")]
    assert followed_by([Segment("a: ")], "b") == [Segment("a:"), Segment(" b", content=True)]
    assert followed_by([Segment(" ")], "b") == [Segment(" b", content=True)]
    assert followed_by([], "b") == [Segment("b", content=True)]
