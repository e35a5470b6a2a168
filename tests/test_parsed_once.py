"""A prompt is parsed once on its way from an adapter to the tensors, whichever framework asks."""

from __future__ import annotations

from collections import Counter

import pytest
from langchain_core.documents import Document
from llama_index.core.base.llms.types import ChatMessage
from parse_counts import counted

from grit_integrations import GritLM
from grit_integrations.langchain import ChatGrit
from grit_integrations.llama_index import GritLLM, GritSynthesizer

QUESTION, PAGE, OTHER = "What pumps blood?", "The heart pumps blood.", "Stars shine by fusion."


def assert_once(calls: Counter[str]) -> None:
    assert {name: calls[name] for name in ("lay_out", "plan_prompt", "merge_turns")} == {
        "lay_out": 1,
        "plan_prompt": 1,
        "merge_turns": 1,
    }
    assert calls[f"check {QUESTION[:12]}"] == 1
    for text in (PAGE, OTHER):
        assert calls[f"check_text {text[:12]}"] == 1


def test_a_chat_model_parses_once(tiny: GritLM, monkeypatch: pytest.MonkeyPatch) -> None:
    chat, calls = ChatGrit(model=tiny, max_tokens=2), counted(monkeypatch)
    chat.invoke(QUESTION, documents=[Document(PAGE), Document(OTHER)])
    assert_once(calls)


@pytest.mark.parametrize("history", [(), (ChatMessage(role="system", content="Be brief."),)])
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("quote", [False, True])
def test_a_synthesizer_parses_once(
    tiny: GritLM,
    monkeypatch: pytest.MonkeyPatch,
    history: tuple[ChatMessage, ...],
    streaming: bool,
    quote: bool,
) -> None:
    llm = GritLLM(tiny, max_new_tokens=9, quote=quote)
    synthesizer = GritSynthesizer(llm, chat_history=history, streaming=streaming)
    calls = counted(monkeypatch)
    answer = synthesizer.get_response(QUESTION, [PAGE, OTHER])
    assert "".join(answer) if streaming else answer
    assert_once(calls)


async def test_an_async_synthesizer_parses_once(tiny: GritLM, monkeypatch: pytest.MonkeyPatch) -> None:
    synthesizer, calls = GritSynthesizer(GritLLM(tiny, max_new_tokens=2)), counted(monkeypatch)
    await synthesizer.aget_response(QUESTION, [PAGE, OTHER])
    assert_once(calls)
