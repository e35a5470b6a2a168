"""`grit evaluate`: measure a model on held-out data, show tables as they are ready, and keep every figure as JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table as RichTable

from grit_integrations.cli.command_group import examples
from grit_integrations.cli.command_options import DebugOption, DeviceOption
from grit_integrations.cli.console import console, shown_path
from grit_integrations.cli.printable import printable
from grit_integrations.errors import OptionError

if TYPE_CHECKING:
    from grit_integrations.evaluation.report import Table
    from grit_integrations.evaluation.run import PartResult
    from grit_integrations.evaluation.scope import EvaluationOptions
    from grit_integrations.evaluation.sets import EvaluationSets
    from grit_integrations.model import GritLM

EXAMPLES = examples(
    "grit evaluate grit-mini --data runs/grit-data --quick",
    "grit evaluate runs/grit-mini/model --data runs/grit-data --json figures.json --markdown > tables.md",
    "grit evaluate GritLM/GritLM-7B --data runs/grit-data --parts answers --caching off,doc --device cuda",
)


def _count(flag: str, what: str, shown: str) -> Any:
    return typer.Option(flag, min=1, metavar="N", help=what, show_default=shown)


def _names(flag: str, what: str, shown: str) -> Any:
    return typer.Option(flag, metavar="NAME,...", help=what, show_default=shown)


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            envvar="GRIT_MODEL", metavar="MODEL", help="Directory, hub id, or [bold]grit-mini[/], which is bundled."
        ),
    ],
    *,
    data: Annotated[
        Path, typer.Option("--data", metavar="DIR", help="What grit_integrations.training.prepare.convert wrote.")
    ],
    parts: Annotated[
        str | None,
        _names("--parts", "What to measure: retrieval, answers, refusal, perplexity, triples.", "all of them"),
    ] = None,
    sets: Annotated[str | None, _names("--sets", "Retrieval sets; may be patterns.", "all but headings-*")] = None,
    answer_sets: Annotated[
        str | None, _names("--answer-sets", "Sets of questions on a passage; may be patterns.", "squad*,selqa*")
    ] = None,
    queries: Annotated[int | None, _count("--queries", "At most N queries per retrieval set.", "300")] = None,
    passages: Annotated[
        int | None, _count("--passages", "At most N passages to search, right ones included.", "all")
    ] = None,
    questions: Annotated[int | None, _count("--questions", "At most N per set of questions.", "150")] = None,
    rows: Annotated[int | None, _count("--rows", "At most N per set of held-out text.", "20")] = None,
    caching: Annotated[str | None, _names("--caching", "Modes to compare answers in.", "all of them")] = None,
    quote: Annotated[
        str | None,
        _names("--quote", "Ways to quote: tokens, spans, and such as spans:1 for one sentence only.", "those three"),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="30 questions of each set, 300 passages: a first look.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of all that is drawn at random.")] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write every figure here, after each part.")
    ] = None,
    records: Annotated[
        Path | None, typer.Option("--records", metavar="FILE", help="Write every answer here, one JSON line each.")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown on a terminal too; elsewhere it is printed anyway.")
    ] = False,
    device: DeviceOption = None,
    debug: DebugOption = False,
) -> None:
    """Measure a model on text it never saw: retrieval beside BM25, answers in every caching mode, refusal, perplexity.

    Figures have 95 % bootstrap intervals. After Ctrl-C the JSON file holds the parts that were finished.
    """
    for file in (json_file, records):
        _check_writable(file)
    names = {"parts": parts, "sets": sets, "answer_sets": answer_sets, "cachings": caching, "quotes": quote}
    sizes = {"queries": queries, "passages": passages, "questions": questions, "rows": rows, "seed": seed}
    options = _options({**{name: _listed(text) for name, text in names.items()}, **sizes}, quick=quick)
    from grit_integrations.cli.model_choice import load_model
    from grit_integrations.evaluation.sets import open_sets

    grit, opened = load_model(model, device), open_sets(data, options)
    _measure(grit, opened, options, json_file=json_file, records=records, markdown=markdown)


def _options(given: dict[str, Any], *, quick: bool) -> EvaluationOptions:
    """Return the options that were given over the defaults, or over those of a quick look."""
    import dataclasses

    from grit_integrations.evaluation.scope import EvaluationOptions

    defaults = EvaluationOptions()
    defaults = defaults.quick() if quick else defaults
    return dataclasses.replace(defaults, **{name: value for name, value in given.items() if value is not None})


def _measure(
    grit: GritLM,
    sets: EvaluationSets,
    options: EvaluationOptions,
    *,
    json_file: Path | None,
    records: Path | None,
    markdown: bool,
) -> None:
    from grit_integrations.evaluation.report import write_json, write_records
    from grit_integrations.evaluation.run import document, evaluate

    results: list[PartResult] = []
    for result in evaluate(grit, sets, options):
        results.append(result)
        if json_file is not None:
            write_json(json_file, document(grit, sets, options, results))
        if records is not None:
            write_records(records, (record for each in results for record in each.records))
        _print(result.tables, markdown=markdown or not sys.stdout.isatty())
    for file in (json_file, records):
        if file is not None:
            console(stderr=True).print(f"[dim]Written: {escape(shown_path(file))}[/]")


def _print(tables: Sequence[Table], *, markdown: bool) -> None:
    for table in tables:
        if markdown:
            typer.echo(printable(table.markdown()) + "\n")
        else:
            console().print(_rich(table), "")


def _rich(table: Table) -> RichTable:
    shown = RichTable(title=escape(table.title), title_justify="left", title_style="bold", header_style="bold")
    for column, name in enumerate(table.header):
        shown.add_column(escape(name), justify="left" if column < table.labels else "right")
    for row in table.rows:
        shown.add_row(*map(escape, row))
    return shown


def _listed(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name for part in text.split(",") if (name := part.strip()))


def _check_writable(file: Path | None) -> None:
    if file is None:
        return
    if not file.parent.is_dir():
        raise OptionError(f"{file} cannot be written: there is no folder {file.parent}. Make it first.")
    if not os.access(file.parent, os.W_OK):
        raise OptionError(f"{file} cannot be written: {file.parent} is read-only. Name a file elsewhere.")
    if file.is_dir():
        raise OptionError(f"{file} is a folder. Name a file in it.")
