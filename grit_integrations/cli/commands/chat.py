"""`grit chat`: one question after another, on a terminal or from a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grit_integrations.cli.command_group import examples
from grit_integrations.cli.command_options import AnswerOptions, DebugOption, spread_options
from grit_integrations.cli.console import console, is_terminal, print_error
from grit_integrations.errors import GritError, PromptError

if TYPE_CHECKING:
    from grit_integrations.cli.conversation import Conversation

EXAMPLES = examples(
    "grit chat",
    "grit chat --store ~/indexes/docs --model GritLM/GritLM-7B",
    "echo 'How far away is the Moon?' | grit chat",
)


@spread_options
def chat(*, options: AnswerOptions, debug: DebugOption = False) -> None:
    """Ask one question after another; what was said before is part of each prompt. Ctrl-D or /quit ends."""
    from grit_integrations.cli.conversation import open_conversation

    with open_conversation(console(), options) as conversation:
        _talk(conversation)


def _talk(conversation: Conversation) -> None:
    """Answer each line of the input until it ends."""
    prompting = is_terminal()
    if prompting:
        conversation.out.print("[dim]Ask a question; /new forgets the conversation, /quit ends.[/]")
    while (line := _next_line(prompting)) is not None:
        if line == "/quit":
            break
        if line == "/new":
            conversation.history.clear()
        elif line:
            _answer(conversation, line, keep_going=prompting)
            conversation.out.print()


def _answer(conversation: Conversation, question: str, *, keep_going: bool) -> None:
    """Answer; a person at a terminal keeps the conversation when an answer fails or is interrupted."""
    try:
        conversation.answer(question)
    except (GritError, KeyboardInterrupt) as problem:
        if not keep_going:
            raise
        conversation.out.print()
        print_error(problem if isinstance(problem, GritError) else "interrupted")


def _next_line(prompting: bool) -> str | None:
    """Return the next question, or `None` at the end of the input.

    Raises:
        PromptError: the input is no text.
    """
    try:
        return input("› " if prompting else "").strip()
    except EOFError:
        return None
    except UnicodeDecodeError as error:
        raise PromptError(
            f"The input is not {error.encoding.upper()} (byte 0x{error.object[error.start]:02x}). Convert it first, "
            "for example: iconv -f latin1 -t utf-8"
        ) from None
