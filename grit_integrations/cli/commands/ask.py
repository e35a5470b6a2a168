"""`grit ask`: one question, answered from the indexed files."""

from __future__ import annotations

from typing import Annotated

import typer

from grit_integrations.cli.command_group import examples
from grit_integrations.cli.command_options import AnswerOptions, DebugOption, spread_options
from grit_integrations.cli.console import console

EXAMPLES = examples(
    'grit ask "How far away is the Moon?"',
    'grit ask "What does clause 7 say?" --store ~/indexes/contracts -k 8',
    'grit ask "Why do stars shine?" --model GritLM/GritLM-7B --free',
)


@spread_options
def ask(
    question: Annotated[str, typer.Argument(help="What you want to know.")],
    *,
    options: AnswerOptions,
    debug: DebugOption = False,
) -> None:
    """Answer one question from the indexed files, then show the passages it came from."""
    from grit_integrations.cli.conversation import open_conversation

    with open_conversation(console(), options) as conversation:
        conversation.answer(question)
