"""The demo: real text, one set of weights, the same questions through LangChain and through LlamaIndex.

Both sides read one Chroma collection. `langchain_side` and `llama_index_side` are what an application would write.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from fractions import Fraction
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from grit_integrations.cli.models import is_bundled
from grit_integrations.cli.output import WrappedStream, byte_size, indexing_bar
from grit_integrations.cli.questions import Question, read_questions
from grit_integrations.cli.quotes import QUOTES_NOTE, QUOTING, print_quote, print_wrapped
from grit_integrations.errors import IngestError, MissingExtraError
from grit_integrations.ingest.passage_index import QUERY_INSTRUCTION, Hit, PassageIndex
from grit_integrations.model import GritLM
from grit_integrations.options import CANDIDATES, Quoting
from grit_integrations.results import Quote

try:
    from langchain_core.documents import Document
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "langchain_core":
        raise
    raise MissingExtraError("langchain-core", "all") from None

if TYPE_CHECKING:
    from langchain_core.messages import AIMessageChunk
    from langchain_core.runnables import Runnable

PASSAGES = 4  # of the candidates that are retrieved, those that the model judges best and answers from
FIRST = 3  # of them, among which the right source must be
SOURCES = Fraction(10, 12)  # of the questions must find their source
ANSWERS = Fraction(6, 12)  # of the questions must get the right answer, if answers are quotes
_TOKENS = 128  # of the longest answer
_INDENT = " " * 4


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds from the question to the reranked passages, to the first token, and to the end."""

    retrieve: float
    first_token: float
    total: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What one framework gave: its passages, its answer, whether they are right, and how long it took."""

    hits: list[Hit]
    text: str
    quotes: list[Quote]
    rank: int | None  # of the first passage from a right source, from 1
    right: bool  # the text has the expected words
    timing: Timing


class Side(Protocol):
    """One framework's way to answer: passages first, then text as it is generated, then what of it is quoted."""

    def __call__(self, question: str) -> Iterator[list[Hit] | str | Quote]:
        """Yield the passages, then pieces of the answer, then its quotes."""


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
        corpus: folder with texts in subfolders and `questions.json`; by default the one that comes along.
        store: where the index is kept; by default it is not.
        limit: ask only the first so many questions.
        quote: answer with sentences of the passages; by default for grit-mini.

    Raises:
        IngestError: there is no corpus, or its questions and files do not fit together.
    """
    corpus = find_corpus() if corpus is None else corpus.resolve()
    questions = read_questions(corpus)[:limit]
    quoting = is_bundled(grit) if quote is None else quote
    grit.load()
    with _store_directory(store) as directory:
        opened = PassageIndex(directory, grit, create=True)
        _index(out, opened, corpus)
        sides: dict[str, Side] = {}
        weights: dict[str, GritLM] = {}
        for name, make in (("LangChain", langchain_side), ("LlamaIndex", llama_index_side)):
            sides[name], adapters = make(opened, max_tokens=_TOKENS, quoting=QUOTING if quoting else None)
            weights |= adapters
        if quoting and is_bundled(grit):
            out.print(f"[dim]{QUOTES_NOTE}[/]")
        answers: dict[str, list[Answer]] = {name: [] for name in sides}
        for number, question in enumerate(questions, 1):
            out.print(f"\n[bold cyan]{number:>2}.[/] [bold]{escape(question.question)}[/]")
            for name, side in sides.items():
                out.print(Text(f"{_INDENT}{name}", style="bold"))
                answers[name].append(_ask(out, side, question, corpus, quoting=quoting))
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


def langchain_side(store: PassageIndex, *, max_tokens: int, quoting: Quoting | None) -> tuple[Side, dict[str, GritLM]]:
    """Return an LCEL chain over Chroma as a `Side`, and the models behind its parts."""
    from langchain_core.runnables import RunnablePassthrough, chain

    from grit_integrations.langchain import ChatGrit, GritEmbeddings, GritReranker

    vectors = store.vectors  # langchain_chroma.Chroma(embedding_function=GritEmbeddings(...))
    reranker = GritReranker(model=store.model, top_n=PASSAGES)
    chat = ChatGrit(model=store.model, max_tokens=max_tokens, quote=quoting)

    @chain
    def retriever(inputs: dict[str, str]) -> Sequence[Document]:
        found = vectors.similarity_search(inputs["question"], k=CANDIDATES)
        return reranker.compress_documents(found, inputs["question"])

    @chain
    def write(inputs: dict[str, Any]) -> Runnable[Any, Any]:
        return itemgetter("question") | chat.bind(documents=inputs["documents"])

    rag = RunnablePassthrough.assign(documents=retriever) | RunnablePassthrough.assign(answer=write)

    def answer(question: str) -> Iterator[list[Hit] | str | Quote]:
        for piece in rag.stream({"question": question}):
            if "documents" in piece:
                yield [Hit(document, document.metadata["relevance_score"]) for document in piece["documents"]]
            if message := piece.get("answer"):
                yield message.text
                yield from _cited(message)

    embeddings = vectors.embeddings
    assert isinstance(embeddings, GritEmbeddings)
    return answer, {"GritEmbeddings": embeddings.grit, "GritReranker": reranker.grit, "ChatGrit": chat.grit}


def _cited(message: AIMessageChunk) -> Iterator[Quote]:
    """Yield what a message cites; its standard citations say which of the documents, and where in it."""
    for block in message.content_blocks:
        annotations: Any = block.get("annotations", ())
        for citation in annotations:
            place = citation["extras"]
            yield Quote(citation["cited_text"], place["document"], place["start"], place["end"], place["score"])


def llama_index_side(
    store: PassageIndex, *, max_tokens: int, quoting: Quoting | None
) -> tuple[Side, dict[str, GritLM]]:
    """Return a LlamaIndex query engine over the same collection as a `Side`, and the models behind its parts."""
    from grit_integrations.llama_index import (  # isort: skip  # names the extra
        GritEmbedding,
        GritLLM,
        GritRerank,
        GritSynthesizer,
    )

    from llama_index.core import VectorStoreIndex
    from llama_index.core.base.response.schema import StreamingResponse
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.query_engine import RetrieverQueryEngine
    from llama_index.core.schema import NodeWithScore, QueryBundle

    try:
        from llama_index.vector_stores.chroma import ChromaVectorStore
    except ModuleNotFoundError as error:
        raise MissingExtraError("llama-index-vector-stores-chroma", "all") from error

    embedding = GritEmbedding(store.model, query_instruction=QUERY_INSTRUCTION)
    rerank = GritRerank(store.model, top_n=PASSAGES)
    llm = GritLLM(store.model, max_new_tokens=max_tokens, quote=quoting or False)
    index = VectorStoreIndex.from_vector_store(
        ChromaVectorStore(chroma_collection=store.collection), embed_model=embedding
    )

    class TextOnly(BaseNodePostprocessor):
        """Hide paths and titles: they say nothing to a small model."""

        def _postprocess_nodes(self, nodes: list[NodeWithScore], _: QueryBundle | None = None) -> list[NodeWithScore]:
            for node in nodes:
                node.node.excluded_llm_metadata_keys = list(node.metadata)
            return nodes

    engine = RetrieverQueryEngine(
        index.as_retriever(similarity_top_k=CANDIDATES),
        GritSynthesizer(llm, streaming=True, query_instruction=QUERY_INSTRUCTION),
        node_postprocessors=[TextOnly(), rerank],
    )

    def answer(question: str) -> Iterator[list[Hit] | str | Quote]:
        query = QueryBundle(question)
        nodes = engine.retrieve(query)
        yield [Hit(Document(node.text, metadata=node.metadata), node.score or 0.0) for node in nodes]
        response = engine.synthesize(query, nodes)
        assert isinstance(response, StreamingResponse)
        yield from response.response_gen or ()
        numbers = {node.node_id: number for number, node in enumerate(nodes)}
        for quote in (response.metadata or {}).get("quotes", ()):
            yield Quote(quote["text"], numbers[quote["node_id"]], quote["start"], quote["end"], quote["score"])

    return answer, {"GritEmbedding": embedding.grit, "GritRerank": rerank.grit, "GritLLM": llm.grit}


@contextmanager
def _store_directory(store: Path | None) -> Iterator[Path]:
    if store is not None:
        yield store
        return
    with tempfile.TemporaryDirectory(prefix="grit-demo-", ignore_cleanup_errors=True) as folder:
        yield Path(folder, "store")


def _index(out: Console, store: PassageIndex, corpus: Path) -> None:
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


def _ask(out: Console, side: Side, question: Question, corpus: Path, *, quoting: bool) -> Answer:
    """Ask one framework and print its answer: text as it is generated, or quotes."""
    hits: list[Hit] = []
    pieces: list[str] = []
    quotes: list[Quote] = []
    marks: list[float] = []
    shown = WrappedStream(out, indent=2 * len(_INDENT))
    began = time.perf_counter()
    for piece in side(question.question):
        marks.append(time.perf_counter() - began)
        if isinstance(piece, Quote):
            quotes.append(piece)
        elif isinstance(piece, str):
            pieces.append(piece)
            if not quoting:
                shown.add(piece)
        else:
            hits = piece
    total = time.perf_counter() - began
    timing = Timing(marks[0], marks[1] if len(marks) > 1 else total, total)
    if not quoting:
        shown.end()
    for quote in quotes:
        print_quote(out, quote, indent=2 * len(_INDENT))
    rank = next((n for n, hit in enumerate(hits, 1) if _relative(hit.source, corpus) in question.sources), None)
    text = "".join(pieces)
    answer = Answer(hits, text, quotes, rank, question.is_answered(text), timing)
    _print_judgement(out, answer, question)
    return answer


def _print_judgement(out: Console, answer: Answer, question: Question) -> None:
    """Print whether an answer is right, and how long it took."""
    timing = answer.timing
    judgement = "[green]✓[/]" if answer.right else f"[yellow]expected: {escape(question.answer)}[/] ·"
    line = Text.from_markup(
        f"{judgement} [dim]retrieved and reranked in {_ms(timing.retrieve)}, "
        f"first token after {_ms(timing.first_token)}, all after {_ms(timing.total)}[/]"
    )
    print_wrapped(out, line, indent=2 * len(_INDENT))


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
    """Print what each framework found and how fast; return whether both found enough sources."""
    title = f"{len(questions)} questions, the best {PASSAGES} of {CANDIDATES} passages each, median times"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for header in ("right first", f"in first {FIRST}", "right answer", "retrieve, rerank", "first token", "all"):
        table.add_column(header, justify="right", no_wrap=True)
    for name, given in answers.items():
        counts = (_found(given, 1), _found(given, FIRST), sum(answer.right for answer in given))
        timings = [answer.timing for answer in given]
        medians = [statistics.median(values) for values in zip(*map(astuple, timings), strict=True)]
        table.add_row(name, *(f"{count} of {len(given)}" for count in counts), *map(_ms, medians))
    out.print(table)
    found = [_found(given, FIRST) for given in answers.values()]
    passed = _is_enough(out, f"The right source must be among the first {FIRST}", found, SOURCES, len(questions))
    if quoting:
        right = [sum(answer.right for answer in given) for given in answers.values()]
        passed &= _is_enough(out, "The quoted sentences must have the right answer", right, ANSWERS, len(questions))
    return passed


def _found(answers: Sequence[Answer], first: int) -> int:
    """Count the answers that have a right source among their first passages."""
    return sum(answer.rank is not None and answer.rank <= first for answer in answers)


def _is_enough(out: Console, wanted: str, counts: Sequence[int], share: Fraction, questions: int) -> bool:
    """Print and return whether every framework did what is wanted for a share of the questions, rounded up."""
    needed = math.ceil(share * questions)
    passed = min(counts) >= needed
    verdict = "[green]passed[/]" if passed else "[red]failed[/]"
    out.print(f"{wanted} for {needed} of {questions}: {verdict}.")
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
