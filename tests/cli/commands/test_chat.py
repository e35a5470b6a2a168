"""`grit chat`: what it remembers, and who keeps it when a question fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import RUN, good, grit

from grit_integrations import ContextOverflowError, GritLM
from grit_integrations.cli.commands import chat
from grit_integrations.cli.conversation import Conversation
from grit_integrations.prompts.requests import Prompt


def test_chat_remembers(store: Path, tiny: GritLM, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts: list[Prompt] = []
    stream = tiny.stream

    def spying(self: GritLM, prompt: Prompt, **options: object) -> object:
        prompts.append(prompt)
        return stream(prompt, **options)

    monkeypatch.setattr(GritLM, "stream", spying)
    given = "What pumps blood?\n\nAnd at night?\n/new\nWhy do stars shine?\n/quit\nnever asked\n"
    said = good("chat", "--store", store, "--free", "--max-tokens", 4, given=given)
    assert [len(prompt.turns) for prompt in prompts] == [1, 3, 1]
    assert prompts[1].turns[0].content == "What pumps blood?"  # the history has no passages in it
    assert [len(prompt.documents) for prompt in prompts] == [2, 2, 2]
    assert said.count("Sources") == 3


def test_chat_quotes_and_ends_with_the_input(store: Path) -> None:
    said = good("chat", "--store", store, "--quote", given="What pumps blood?\nAnd at night?\n")
    assert len(re.findall(r"“[^”]+” \[[12]\]", said)) == 2


def test_input_that_is_no_text_is_refused_in_one_line(store: Path) -> None:
    command = [sys.executable, "-c", RUN, "chat", "--store", str(store)]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, input=b"caf\xe9?\n", capture_output=True, env=environment, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(b"Error: The input is not UTF-8 (byte 0xe9)"), done.stderr
    assert b"Traceback" not in done.stderr


def test_a_terminal_that_knows_ascii_only_shows_the_rest_spelled_out(store: Path) -> None:
    command = [sys.executable, "-c", RUN, "ask", "What pumps blood?", "--quote", "--store", str(store)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"\\u201c")


def test_a_person_keeps_the_chat_when_a_question_fails(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = []

    def answer(self: Conversation, question: str) -> None:
        answered.append(question)
        raise {"long": ContextOverflowError("too long"), "stop": KeyboardInterrupt()}[question]

    monkeypatch.setattr(Conversation, "answer", answer)
    assert grit("chat", "--store", store, given="long\nstop\n").exit_code == 1  # a script learns of it
    assert answered == ["long"]
    monkeypatch.setattr(chat, "is_terminal", lambda: True)
    result = grit("chat", "--store", store, given="long\nstop\n")
    assert result.exit_code == 0
    assert answered == ["long", "long", "stop"]
    assert "Error: too long" in result.stderr
    assert "interrupted" in result.stderr
