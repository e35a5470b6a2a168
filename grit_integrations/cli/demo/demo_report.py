"""What the demo prints beside the answers: whether each is right, its sources, and the verdict on all of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import astuple
from fractions import Fraction
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from grit_integrations.cli.amounts import byte_size
from grit_integrations.cli.demo.corpus import DemoQuestion
from grit_integrations.cli.demo.judged_answer import JudgedAnswer, relative_source
from grit_integrations.cli.demo.pipelines import PASSAGES
from grit_integrations.cli.wrapped_text import print_wrapped
from grit_integrations.model import GritLM
from grit_integrations.options import CANDIDATES

INDENT = " " * 4
FIRST = 3  # of the passages, among which the right source must be
SOURCES = Fraction(10, 12)  # of the questions must find their source
ANSWERS = Fraction(6, 12)  # of the questions must get the right answer, if answers are quotes


def print_judgement(out: Console, answer: JudgedAnswer, question: DemoQuestion) -> None:
    """Print whether an answer is right, and how long it took."""
    times = answer.times
    judgement = "[green]✓[/]" if answer.right else f"[yellow]expected: {escape(question.answer)}[/] ·"
    line = Text.from_markup(
        f"{judgement} [dim]retrieved and reranked in {_ms(times.retrieve)}, "
        f"first token after {_ms(times.first_token)}, all after {_ms(times.total)}[/]"
    )
    print_wrapped(out, line, indent=2 * len(INDENT))


def print_demo_sources(out: Console, answers: dict[str, JudgedAnswer], question: DemoQuestion, corpus: Path) -> None:
    """Print each framework's sources, once if they agree."""
    listed = {name: [(hit.source, f"{hit.score:.3f}") for hit in answer.hits] for name, answer in answers.items()}
    groups: dict[str, list[tuple[str, str]]] = listed
    if len({tuple(sources) for sources in listed.values()}) == 1:
        groups = {"both": next(iter(listed.values()))}
    for name, sources in groups.items():
        out.print(f"{INDENT}[bold]Sources[/]" + ("" if name == "both" else f" of {name}"))
        for number, (source, score) in enumerate(sources, 1):
            relative = relative_source(source, corpus)
            right = relative in question.sources
            mark, style = ("✓", "green") if right else (" ", "dim")
            out.print(Text(f"{INDENT * 2}[{number}] {score} {mark} {relative}", style=style), soft_wrap=True)


def print_summary(
    out: Console, answers: dict[str, list[JudgedAnswer]], questions: Sequence[DemoQuestion], *, quoting: bool
) -> bool:
    """Print what each framework found and how fast; return whether both found enough sources."""
    title = f"{len(questions)} questions, the best {PASSAGES} of {CANDIDATES} passages each, median times"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for header in ("right first", f"in first {FIRST}", "right answer", "retrieve, rerank", "first token", "all"):
        table.add_column(header, justify="right", no_wrap=True)
    for name, given in answers.items():
        counts = (_count(given, 1), _count(given, FIRST), sum(answer.right for answer in given))
        times = [astuple(answer.times) for answer in given]
        medians = [statistics.median(values) for values in zip(*times, strict=True)]
        table.add_row(name, *(f"{count} of {len(given)}" for count in counts), *map(_ms, medians))
    out.print(table)
    found = [_count(given, FIRST) for given in answers.values()]
    passed = _is_enough(out, f"The right source must be among the first {FIRST}", found, SOURCES, len(questions))
    if quoting:
        right = [sum(answer.right for answer in given) for given in answers.values()]
        passed &= _is_enough(out, "The quoted sentences must have the right answer", right, ANSWERS, len(questions))
    return passed


def _count(answers: Sequence[JudgedAnswer], first: int) -> int:
    return sum(answer.found(first) for answer in answers)


def _is_enough(out: Console, wanted: str, counts: Sequence[int], share: Fraction, questions: int) -> bool:
    """Print and return whether every framework did what is wanted for a share of the questions, rounded up."""
    needed = math.ceil(share * questions)
    passed = min(counts) >= needed
    verdict = "[green]passed[/]" if passed else "[red]failed[/]"
    out.print(f"{wanted} for {needed} of {questions}: {verdict}.")
    return passed


def print_memory(out: Console, grit: GritLM, models: dict[str, GritLM]) -> bool:
    """Print whether all adapters hold the same weights, by the addresses of the tensors, and return it."""
    own = _addresses(grit)
    shared = [name for name, model in models.items() if _addresses(model) == own]
    weights = byte_size(float(str(grit.describe()["bytes"])))
    if len(shared) < len(models):
        out.print(f"[red]Not one set of weights: {', '.join(sorted(models.keys() - set(shared)))} loaded their own.[/]")
        return False
    out.print(f"One set of weights, {weights}: {', '.join(shared)} share its {len(own)} tensors.")
    return True


def _addresses(model: GritLM) -> frozenset[int]:
    return frozenset(parameter.data_ptr() for parameter in model.lm.parameters())


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
