"""The options that several commands have, each in one place, and how their values are checked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from grit_integrations.errors import OptionError
from grit_integrations.kv.sizes import parse_size
from grit_integrations.options import CACHINGS

DEFAULT_STORE = Path(".grit")


def one_of(values: Sequence[str]) -> Callable[[typer.CallbackParam, str | None], str | None]:
    """Return a check of an option whose possible values are known."""

    def check(option: typer.CallbackParam, value: str | None) -> str | None:
        if value is not None and value not in values:
            raise OptionError(f"{option.opts[0]} {value} is unknown. Use one of {', '.join(values)}.")
        return value

    return check


def a_size(option: typer.CallbackParam, value: str | None) -> str | None:
    """Check an option that is a size in bytes."""
    try:
        return value if value is None else str(parse_size(value))
    except OptionError as error:
        raise OptionError(f"{option.opts[0]}: {error}") from None


def _set_debug(ctx: typer.Context, value: bool) -> bool:
    if value:
        ctx.find_root().meta["debug"] = True
    return value


ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        envvar="GRIT_MODEL",
        metavar="NAME",
        help="Directory, hub id, or [bold]grit-mini[/], the small bundled model.",
        show_default="the store's model, else grit-mini",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", envvar="GRIT_DEVICE", help="Such as cpu or cuda:0.", show_default="the best one here"),
]
StoreOption = Annotated[
    Path, typer.Option("--store", envvar="GRIT_STORE", metavar="DIR", help="Where the index is kept.")
]
DebugOption = Annotated[bool, typer.Option("--debug", callback=_set_debug, help="Show the traceback of an error.")]
QuoteOption = Annotated[
    bool | None,
    typer.Option(
        "--quote/--free",
        help="Answer with sentences of the passages, or let the model write.",
        show_default="--quote for grit-mini, else --free",
    ),
]
PassagesOption = Annotated[
    int, typer.Option("-k", "--passages", min=1, max=100, help="How many passages to answer from.")
]
RerankOption = Annotated[
    int | None,
    typer.Option(
        "--rerank",
        min=0,
        max=100,
        metavar="N",
        help="Retrieve N passages and let the model judge which of them to answer from; 0 takes the nearest.",
        show_default="20 for grit-mini, else 0",
    ),
]
AnswerCachingOption = Annotated[
    str | None,
    typer.Option(
        "--caching",
        callback=one_of(CACHINGS),
        metavar="MODE",
        help="What of a prompt is read from the KV cache: off, prefix, doc, query, query-doc or doc-query.",
        show_default="as the index was made",
    ),
]
TokensOption = Annotated[int, typer.Option("--max-tokens", min=1, help="The longest answer, in tokens.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerOptions:
    """What `grit ask` and `grit chat` can be told: an option each, with its default. `None` is explained there."""

    store: StoreOption = DEFAULT_STORE
    k: PassagesOption = 4
    rerank: RerankOption = None
    quote: QuoteOption = None
    max_tokens: TokensOption = 256
    caching: AnswerCachingOption = None
    model: ModelOption = None
    device: DeviceOption = None


def spread_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of its parameter `options`, a dataclass such as `AnswerOptions`."""
    own = inspect.signature(command, eval_str=True)
    kind = own.parameters["options"].annotation
    hints = get_type_hints(kind, include_extras=True)
    spread = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(kind)
    ]

    @wraps(command)
    def flat(**given: Any) -> None:
        options = kind(**{option.name: given.pop(option.name) for option in spread})
        command(**given, options=options)

    parameters: list[inspect.Parameter] = []
    for parameter in own.parameters.values():
        parameters += spread if parameter.name == "options" else [parameter]
    flat.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]  # what typer reads
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return flat
