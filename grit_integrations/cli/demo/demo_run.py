"""The demo: real text, one set of weights, the same questions through LangChain and through LlamaIndex."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from grit_integrations.cli.answer_output import print_quote
from grit_integrations.cli.demo.corpus import DemoQuestion, find_corpus, read_questions
from grit_integrations.cli.demo.demo_report import (
    INDENT,
    print_demo_sources,
    print_judgement,
    print_memory,
    print_summary,
)
from grit_integrations.cli.demo.judged_answer import JudgedAnswer, ask
from grit_integrations.cli.demo.pipelines import Pipeline, langchain_pipeline, llama_index_pipeline
from grit_integrations.cli.model_choice import QUOTES_NOTE, QUOTING, is_bundled
from grit_integrations.cli.progress_bars import indexing_bar
from grit_integrations.cli.wrapped_text import WrappedStream
from grit_integrations.ingest import PassageIndex
from grit_integrations.model import GritLM

_TOKENS = 128  # of the longest answer


def run_demo(
    out: Console,
    grit: GritLM,
    *,
    corpus: Path | None = None,
    store: Path | None = None,
    limit: int | None = None,
    quote: bool | None = None,
) -> bool:
    """Index the corpus, answer its questions through both frameworks, and return whether enough answers were right.

    Args:
        out: where everything is printed.
        grit: the model in every role.
        corpus: folder with texts in subfolders and `questions.json`; by default the bundled one.
        store: where the index is kept; by default it is not.
        limit: ask only the first `limit` questions.
        quote: answer with sentences of the passages; by default for grit-mini.

    Raises:
        IngestError: there is no corpus, or its questions and files do not fit together.
    """
    corpus = find_corpus() if corpus is None else corpus.resolve()
    questions = read_questions(corpus)[:limit]
    quoting = is_bundled(grit) if quote is None else quote
    grit.load()
    with _store_directory(store) as directory:
        index = PassageIndex(directory, grit, create=True)
        _index(out, index, corpus)
        pipelines: dict[str, Pipeline] = {}
        models: dict[str, GritLM] = {}
        for name, make in (("LangChain", langchain_pipeline), ("LlamaIndex", llama_index_pipeline)):
            pipelines[name], adapters = make(index, max_tokens=_TOKENS, quoting=QUOTING if quoting else None)
            models |= adapters
        if quoting and is_bundled(grit):
            out.print(f"[dim]{QUOTES_NOTE}[/]")
        answers = _ask_all(out, pipelines, questions, corpus, quoting=quoting)
    out.print()
    passed = print_summary(out, answers, questions, quoting=quoting)
    return print_memory(out, grit, models) and passed


@contextmanager
def _store_directory(store: Path | None) -> Iterator[Path]:
    if store is not None:
        yield store
        return
    with tempfile.TemporaryDirectory(prefix="grit-demo-", ignore_cleanup_errors=True) as folder:
        yield Path(folder, "store")


def _index(out: Console, index: PassageIndex, corpus: Path) -> None:
    folders = sorted(path for path in corpus.iterdir() if path.is_dir() and not path.name.startswith((".", "_")))
    began = time.perf_counter()
    with indexing_bar(out) as show:
        report = index.index(folders, on_progress=show)
    seconds = time.perf_counter() - began
    files = len(report.added) + len(report.changed) + len(report.unchanged)
    rate = f", {report.passages_added / seconds:.0f} passages/s" if report.passages_added else ", nothing had changed"
    out.print(
        f"Indexed [bold]{index.count():,}[/] passages of {files} files with {escape(index.model.name)} "
        f"into Chroma in {seconds:.1f} s{rate}"
    )
    out.print(f"[dim]Texts: {escape(', '.join(path.name for path in folders))}[/]")
    for file, reason in report.failed.items():
        out.print(f"[red]{escape(file)}[/]: {escape(reason)}")


def _ask_all(
    out: Console, pipelines: Mapping[str, Pipeline], questions: Sequence[DemoQuestion], corpus: Path, *, quoting: bool
) -> dict[str, list[JudgedAnswer]]:
    """Ask every framework every question and print the answers."""
    answers: dict[str, list[JudgedAnswer]] = {name: [] for name in pipelines}
    for number, question in enumerate(questions, 1):
        out.print(f"\n[bold cyan]{number:>2}.[/] [bold]{escape(question.question)}[/]")
        for name, pipeline in pipelines.items():
            out.print(Text(f"{INDENT}{name}", style="bold"))
            answers[name].append(_ask(out, pipeline, question, corpus, quoting=quoting))
        print_demo_sources(out, {name: given[-1] for name, given in answers.items()}, question, corpus)
    return answers


def _ask(out: Console, pipeline: Pipeline, question: DemoQuestion, corpus: Path, *, quoting: bool) -> JudgedAnswer:
    """Ask one framework and print its answer: text as it is generated, or quotes."""
    indent = 2 * len(INDENT)
    if quoting:
        answer = ask(pipeline, question, corpus, on_text=lambda piece: None)
        for quote in answer.quotes:
            print_quote(out, quote, indent=indent)
    else:
        shown = WrappedStream(out, indent=indent)
        answer = ask(pipeline, question, corpus, on_text=shown.add)
        shown.end()
    print_judgement(out, answer, question)
    return answer
