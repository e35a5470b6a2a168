"""The command `grit`: its help, and its commands in the order in which the help lists them."""

from __future__ import annotations

import typer

from grit_integrations.cli.command_group import GritGroup
from grit_integrations.cli.commands import ask, cache, chat, demo, evaluate, index, info, train

app = typer.Typer(
    name="grit",
    cls=GritGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Ask questions about your own files, with one model that finds the passages and writes the answer.",
    epilog="Start here:  [bold cyan]grit demo[/]  ·  [bold cyan]grit index docs/[/]  ·  "
    '[bold cyan]grit ask "How do I reset it?"[/]',
)

app.add_typer(cache.cache_app)
app.command(epilog=demo.EXAMPLES)(demo.demo)
app.command(epilog=index.EXAMPLES)(index.index)
app.command(epilog=ask.EXAMPLES)(ask.ask)
app.command(epilog=chat.EXAMPLES)(chat.chat)
app.command(epilog=train.EXAMPLES)(train.train)
app.command(epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command(epilog=info.EXAMPLES)(info.info)
