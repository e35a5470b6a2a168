"""The demo: real text, one set of weights, the same questions through LangChain and through LlamaIndex.

Both sides read one Chroma collection. `langchain_side` and `llama_index_side` are what an application would write.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from grit_integrations.cli.models import is_bundled
from grit_integrations.cli.output import QUOTES_NOTE, WrappedStream, byte_size, indexing_bar, one_line
from grit_integrations.errors import IngestError, MissingExtraError
from grit_integrations.ingest.store import QUERY_INSTRUCTION, Hit, Store
from grit_integrations.model import GritLM
from grit_integrations.prompts import rag_prompt
from grit_integrations.quoting import best_quotes

try:
    from langchain_core.documents import Document
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "langchain_core":
        raise
    raise MissingExtraError("langchain-core", "all") from None

PASSAGES = 4  # retrieved per question
SHARE = 0.75  # of the questions that must find their source
_TOKENS = {True: 24, False: 128}  # longest text the model writes: just timed when answers are quotes, else the answer
_INDENT = " " * 4


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the files that answer it, and words that a right answer has."""

    question: str
    sources: tuple[str, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds from the question to the passages, to the first token, and to the end."""

    retrieve: float
    first_token: float
    total: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What one framework gave: its passages, the model's own text, a sentence to quote, and how long it took."""

    hits: list[Hit]
    text: str
    quote: str
    rank: int | None  # of the first passage from a right source, from 1
    timing: Timing


class Side(Protocol):
    """One framework's way to answer: passages first, then text as it is generated."""

    def __call__(self, question: str) -> Iterator[list[Hit] | str]:
        """Yield the passages, then pieces of the answer."""


def run_demo(
    out: Console,
    grit: GritLM,
    *,
    corpus: Path | None = None,
    store: Path | None = None,
    limit: int | None = None,
    quote: bool | None = None,
) -> bool:
    """Index the corpus, answer its questions through both frameworks, and return whether both found enough sources.

    Args:
        out: where everything is printed.
        grit: the model in every role.
        corpus: folder with texts in subfolders and `questions.json`; by default the one that comes along.
        store: where the index is kept; by default it is not.
        limit: ask only the first so many questions.
        quote: answer with sentences of the passages; by default for grit-mini.

    Raises:
        IngestError: there is no corpus.
    """
    corpus = find_corpus() if corpus is None else corpus.resolve()
    questions = read_questions(corpus)[:limit]
    quoting = is_bundled(grit) if quote is None else quote
    grit.load()
    with _store_directory(store) as directory:
        opened = Store(directory, grit, create=True)
        _index(out, opened, corpus)
        sides: dict[str, Side] = {}
        weights: dict[str, GritLM] = {}
        for name, make in (("LangChain", langchain_side), ("LlamaIndex", llama_index_side)):
            sides[name], adapters = make(opened, max_tokens=_TOKENS[quoting])
            weights |= adapters
        if quoting:
            out.print(f"[dim]{QUOTES_NOTE}\nWhat it writes is timed and not shown; --free shows it.[/]")
        answers: dict[str, list[Answer]] = {name: [] for name in sides}
        for number, question in enumerate(questions, 1):
            out.print(f"\n[bold cyan]{number:>2}.[/] [bold]{escape(question.question)}[/]")
            for name, side in sides.items():
                out.print(Text(f"{_INDENT}{name}", style="bold"))
                answers[name].append(_ask(out, grit, side, question, corpus, quoting=quoting))
            _print_sources(out, {name: given[-1] for name, given in answers.items()}, question, corpus)
    out.print()
    passed = _print_summary(out, answers, questions, quoting=quoting)
    return _print_memory(out, grit, weights) and passed


def find_corpus() -> Path:
    """Return the demo's texts: in the package when it is installed, beside it in the repository.

    Raises:
        IngestError: they are in neither place.
    """
    package = Path(__file__).resolve().parent.parent
    for place in (package / "corpus", package.parent / "examples" / "corpus"):
        if (place / "questions.json").exists():
            return place
    raise IngestError("The demo's texts are not installed. Run it in a clone of the repository, or give --corpus DIR.")


def read_questions(corpus: Path) -> list[Question]:
    """Return the questions of a corpus.

    Raises:
        IngestError: no `questions.json`, or not of the form that `examples/corpus` has.
    """
    path = corpus / "questions.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [Question(row["question"], tuple(row["sources"]), row["answer"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IngestError(f"{path} cannot be read as questions ({type(error).__name__}: {error}).") from error


def langchain_side(store: Store, *, max_tokens: int) -> tuple[Side, dict[str, GritLM]]:
    """Return an LCEL chain over Chroma as a `Side`, and the models behind its parts."""
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_core.runnables import RunnablePassthrough, chain

    from grit_integrations.langchain import ChatGrit, GritEmbeddings

    vectors = store.vectors  # langchain_chroma.Chroma(embedding_function=GritEmbeddings(...))
    chat = ChatGrit(model=store.model, max_tokens=max_tokens)

    @chain
    def retriever(inputs: dict[str, str]) -> list[Document]:
        found = vectors.similarity_search_with_score(inputs["question"], k=PASSAGES)
        return [doc.model_copy(update={"metadata": {**doc.metadata, "score": 1 - far}}) for doc, far in found]

    @chain
    def context(inputs: dict[str, Any]) -> str:
        return "\n\n".join(document.page_content for document in inputs["documents"])

    prompt = ChatPromptTemplate.from_messages([("human", rag_prompt("{question}", ["{context}"]))])
    write = RunnablePassthrough.assign(context=context) | prompt | chat | StrOutputParser()
    rag = RunnablePassthrough.assign(documents=retriever) | RunnablePassthrough.assign(answer=write)

    def answer(question: str) -> Iterator[list[Hit] | str]:
        for piece in rag.stream({"question": question}):
            if "documents" in piece:
                yield [Hit(document, document.metadata["score"]) for document in piece["documents"]]
            if piece.get("answer"):
                yield piece["answer"]

    embeddings = vectors.embeddings
    assert isinstance(embeddings, GritEmbeddings)
    return answer, {"GritEmbeddings": embeddings.grit, "ChatGrit": chat.grit}


def llama_index_side(store: Store, *, max_tokens: int) -> tuple[Side, dict[str, GritLM]]:
    """Return a LlamaIndex query engine over the same collection as a `Side`, and the models behind its parts."""
    from grit_integrations.llama_index import GritEmbedding, GritLLM  # isort: skip  # names the extra if it is missing

    from llama_index.core import PromptTemplate, VectorStoreIndex
    from llama_index.core.base.response.schema import StreamingResponse
    from llama_index.core.query_engine import RetrieverQueryEngine
    from llama_index.core.schema import QueryBundle

    try:
        from llama_index.vector_stores.chroma import ChromaVectorStore
    except ModuleNotFoundError as error:
        raise MissingExtraError("llama-index-vector-stores-chroma", "all") from error

    embedding = GritEmbedding(store.model, query_instruction=QUERY_INSTRUCTION)
    llm = GritLLM(store.model, max_new_tokens=max_tokens)
    index = VectorStoreIndex.from_vector_store(
        ChromaVectorStore(chroma_collection=store.collection), embed_model=embedding
    )
    engine = RetrieverQueryEngine.from_args(
        index.as_retriever(similarity_top_k=PASSAGES),
        llm=llm,
        streaming=True,
        text_qa_template=PromptTemplate(rag_prompt("{query_str}", ["{context_str}"])),
    )

    def answer(question: str) -> Iterator[list[Hit] | str]:
        query = QueryBundle(question)
        nodes = engine.retrieve(query)
        yield [
            # ChromaVectorStore turns a distance d into the score exp(-d)
            Hit(Document(node.text, metadata=node.metadata), 1 + math.log(node.score or 1e-9))
            for node in nodes
        ]
        response = engine.synthesize(query, nodes)
        assert isinstance(response, StreamingResponse)
        yield from response.response_gen or ()

    return answer, {"GritEmbedding": embedding.grit, "GritLLM": llm.grit}


@contextmanager
def _store_directory(store: Path | None) -> Iterator[Path]:
    if store is not None:
        yield store
        return
    with tempfile.TemporaryDirectory(prefix="grit-demo-", ignore_cleanup_errors=True) as folder:
        yield Path(folder, "store")


def _index(out: Console, store: Store, corpus: Path) -> None:
    folders = sorted(path for path in corpus.iterdir() if path.is_dir() and not path.name.startswith((".", "_")))
    began = time.perf_counter()
    with indexing_bar(out) as show:
        report = store.index(folders, on_progress=show)
    seconds = time.perf_counter() - began
    files = len(report.added) + len(report.changed) + len(report.unchanged)
    rate = f", {report.passages_added / seconds:.0f} passages/s" if report.passages_added else ", nothing had changed"
    out.print(
        f"Indexed [bold]{store.count():,}[/] passages of {files} files with {escape(store.model.name)} "
        f"into Chroma in {seconds:.1f} s{rate}"
    )
    out.print(f"[dim]Texts: {escape(', '.join(path.name for path in folders))}[/]")
    for file, reason in report.failed.items():
        out.print(f"[red]{escape(file)}[/]: {escape(reason)}")


def _ask(out: Console, grit: GritLM, side: Side, question: Question, corpus: Path, *, quoting: bool) -> Answer:
    """Ask one framework and print its answer: text as it is generated, or else a quote."""
    hits: list[Hit] = []
    pieces: list[str] = []
    marks: list[float] = []
    shown = WrappedStream(out, indent=2 * len(_INDENT))
    began = time.perf_counter()
    for piece in side(question.question):
        marks.append(time.perf_counter() - began)
        if not isinstance(piece, str):
            hits = piece
            continue
        if not quoting:
            shown.add(piece)
        pieces.append(piece)
    total = time.perf_counter() - began
    timing = Timing(marks[0], marks[1] if len(marks) > 1 else total, total)
    text, quote = "".join(pieces), ""
    if quoting:
        quote = _quote(grit, question.question, hits)
        shown.add(quote)
    shown.end()
    out.print(
        f"{_INDENT * 2}[dim]retrieved in {_ms(timing.retrieve)}, first token after {_ms(timing.first_token)}, "
        f"all after {_ms(timing.total)}[/]"
    )
    rank = next((n for n, hit in enumerate(hits, 1) if _relative(hit.source, corpus) in question.sources), None)
    return Answer(hits, text, quote, rank, timing)


def _quote(grit: GritLM, question: str, hits: Sequence[Hit]) -> str:
    passages = [hit.document.page_content for hit in hits]
    best = best_quotes(grit, question, passages, limit=1, instruction=QUERY_INSTRUCTION)
    return f"“{one_line(best[0].text)}” [{best[0].document + 1}]" if best else "(no sentence to quote)"


def _print_sources(out: Console, answers: dict[str, Answer], question: Question, corpus: Path) -> None:
    """Print each framework's sources, once if they agree."""
    listed = {name: [(hit.source, f"{hit.score:.3f}") for hit in answer.hits] for name, answer in answers.items()}
    groups: dict[str, list[tuple[str, str]]] = listed
    if len({tuple(sources) for sources in listed.values()}) == 1:
        groups = {"both": next(iter(listed.values()))}
    for name, sources in groups.items():
        out.print(f"{_INDENT}[bold]Sources[/]" + ("" if name == "both" else f" of {name}"))
        for number, (source, score) in enumerate(sources, 1):
            relative = _relative(source, corpus)
            right = relative in question.sources
            mark, style = ("✓", "green") if right else (" ", "dim")
            out.print(Text(f"{_INDENT * 2}[{number}] {score} {mark} {relative}", style=style), soft_wrap=True)


def _print_summary(
    out: Console, answers: dict[str, list[Answer]], questions: Sequence[Question], *, quoting: bool
) -> bool:
    """Print what each framework found and how fast; return whether both found enough."""
    table = Table(title=f"{len(questions)} questions, {PASSAGES} passages each, median times", title_justify="left")
    table.add_column("")
    quoted = ["answer in quote"] if quoting else []
    for header in ("right first", f"in first {PASSAGES}", *quoted, "retrieve", "first token", "all"):
        table.add_column(header, justify="right", no_wrap=True)
    needed = math.ceil(SHARE * len(questions))
    passed = True
    for name, given in answers.items():
        found = sum(answer.rank is not None for answer in given)
        passed = passed and found >= needed
        cells = [sum(answer.rank == 1 for answer in given), found]
        if quoting:
            cells.append(sum(q.answer.lower() in a.quote.lower() for q, a in zip(questions, given, strict=True)))
        timings = [answer.timing for answer in given]
        medians = [statistics.median(values) for values in zip(*map(astuple, timings), strict=True)]
        table.add_row(name, *(f"{cell} of {len(given)}" for cell in cells), *map(_ms, medians))
    out.print(table)
    verdict = "[green]passed[/]" if passed else "[red]failed[/]"
    out.print(f"The right source must be among the first {PASSAGES} for {needed} of {len(questions)}: {verdict}.")
    return passed


def _print_memory(out: Console, grit: GritLM, models: dict[str, GritLM]) -> bool:
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


def _relative(source: str, corpus: Path) -> str:
    path = Path(source)
    return path.relative_to(corpus).as_posix() if path.is_relative_to(corpus) else source


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
