"""Measure a model on held-out data: retrieval beside BM25 and chance, and the loss on held-out responses.

Usage: `python -m grit_integrations.training.evaluate DATA MODEL [MODEL ...]`, where `DATA` is what
`grit_integrations.training.convert` wrote.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from grit_integrations.encoder import bidirectional_view, pool
from grit_integrations.errors import DataError
from grit_integrations.training.batches import IGNORED, PromptEncoder, embedding_inputs, text_batch
from grit_integrations.training.data import Text, parse_pair, parse_text, read_json_lines
from grit_integrations.training.initial import load_model
from grit_integrations.training.losses import response_loss
from grit_integrations.training.tokenizer import load_tokenizer

BATCH_TOKENS = 16_000
TEXT_ROWS = 16
CausalLM = Any  # a transformers causal LM: `.model` is the decoder without the head, `.lm_head` the head
Scores = npt.NDArray[np.floating[Any]]
Autocast = Callable[[], AbstractContextManager[None]]
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """Queries, candidate passages, and for each query the indices of the passages that answer it."""

    name: str
    instruction: str
    queries: tuple[str, ...]
    passages: tuple[str, ...]
    gold: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class RetrievalScores:
    """Shares in 0..1."""

    recall_1: float
    recall_5: float
    recall_10: float
    ndcg_10: float


def load_retrieval(path: Path, *, queries: int | None = None, passages: int | None = None) -> RetrievalSet:
    """Read `NAME.jsonl` (`{"query", "pos"}`) and, when it is there, `NAME.corpus.jsonl` (`{"text"}`)."""
    pairs = [parse_pair(row) for _, row in read_json_lines(path)][:queries]
    if not pairs:
        raise DataError(f"{path} has no rows to evaluate.")
    numbers: dict[str, int] = {}
    gold = tuple(tuple(numbers.setdefault(text, len(numbers)) for text in pair.positives) for pair in pairs)
    corpus = path.with_name(path.name.removesuffix(".jsonl") + ".corpus.jsonl")
    if corpus.exists():
        for _, row in read_json_lines(corpus):
            if passages is None or len(numbers) < passages:
                numbers.setdefault(row["text"], len(numbers))
    texts = tuple(pair.query for pair in pairs)
    return RetrievalSet(path.name.removesuffix(".jsonl"), pairs[0].instruction, texts, tuple(numbers), gold)


def load_texts(path: Path) -> list[Text]:
    """Read the rows of a generation set."""
    return [parse_text(row) for _, row in read_json_lines(path)]


def evaluation_files(folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """Return the sets of a folder, or those that are named."""
    if names:
        return [folder / f"{name}.jsonl" for name in names]
    return sorted(path for path in folder.glob("*.jsonl") if not path.name.endswith(".corpus.jsonl"))


@torch.no_grad()
def embed(
    model: CausalLM,
    encoder: PromptEncoder,
    texts: Sequence[str],
    *,
    instruction: str = "",
    longest: int = 2000,
    autocast: Autocast = nullcontext,
) -> Tensor:
    """Return unit vectors of texts, (texts, dim) float32 on the CPU, in the order given."""
    view: Any = bidirectional_view(model.model)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    vectors: dict[int, Tensor] = {}
    for rows in _by_tokens(order, texts, longest):
        batch = embedding_inputs(encoder, [texts[row] for row in rows], instruction=instruction, longest=longest)
        batch = batch.to(model.device)
        with autocast():
            hidden = view(input_ids=batch.ids, attention_mask=batch.attended, use_cache=False).last_hidden_state
        pooled = functional.normalize(pool(hidden, batch.attended, batch.sample), dim=-1).cpu()
        vectors.update(zip(rows, pooled, strict=True))
    return torch.stack([vectors[index] for index in range(len(texts))])


def _by_tokens(order: Sequence[int], texts: Sequence[str], longest: int) -> list[list[int]]:
    batches: list[list[int]] = [[]]
    for index in order:
        tokens = min(longest, len(texts[index]) // 3 + 1)
        if batches[-1] and (len(batches[-1]) + 1) * tokens > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(index)
    return batches


def rank_scores(similarity: Scores, gold: Sequence[Sequence[int]]) -> RetrievalScores:
    """Return recall and nDCG by the best-ranked gold passage of each query; a tie with another counts as below it.

    Args:
        similarity: (queries, passages).
        gold: per query, the passages that answer it; finding any one of them is enough.
    """
    ranks = np.array([_rank(row, answers) for row, answers in zip(similarity, gold, strict=True)])  # 0 is first
    gain = np.where(ranks < 10, 1 / np.log2(ranks + 2), 0.0)
    first, five, ten = (float((ranks < k).mean()) for k in (1, 5, 10))
    return RetrievalScores(first, five, ten, float(gain.mean()))


def _rank(row: Scores, answers: Sequence[int]) -> int:
    others = np.delete(row, list(answers))
    return int((others >= row[list(answers)].max()).sum())


def model_scores(
    model: CausalLM, encoder: PromptEncoder, found: RetrievalSet, *, instructed: bool, autocast: Autocast = nullcontext
) -> RetrievalScores:
    """Score a model on a set; passages never have an instruction, queries do when `instructed`."""
    passages = embed(model, encoder, found.passages, autocast=autocast)
    return query_scores(model, encoder, found, passages, instructed=instructed, autocast=autocast)


def query_scores(
    model: CausalLM,
    encoder: PromptEncoder,
    found: RetrievalSet,
    passages: Tensor,
    *,
    instructed: bool,
    autocast: Autocast = nullcontext,
) -> RetrievalScores:
    """Score a model on a set whose passages it has embedded already, (passages, dim)."""
    instruction = found.instruction if instructed else ""
    queries = embed(model, encoder, found.queries, instruction=instruction, autocast=autocast)
    return rank_scores((queries @ passages.T).numpy(), found.gold)


def bm25_scores(found: RetrievalSet, *, k1: float = 1.2, b: float = 0.75) -> RetrievalScores:
    """Score Okapi BM25 over lower-cased words on a set."""
    documents = [Counter(_WORD.findall(text.lower())) for text in found.passages]
    lengths = np.array([max(1, document.total()) for document in documents])
    frequency = Counter(word for document in documents for word in document)
    postings: dict[str, list[tuple[int, int]]] = {}
    for index, document in enumerate(documents):
        for word, count in document.items():
            postings.setdefault(word, []).append((index, count))
    similarity = np.zeros((len(found.queries), len(documents)))
    norm = k1 * (1 - b + b * lengths / lengths.mean())
    for row, query in enumerate(found.queries):
        for word in _WORD.findall(query.lower()):
            weight = math.log(1 + (len(documents) - frequency[word] + 0.5) / (frequency[word] + 0.5))
            for index, count in postings.get(word, []):
                similarity[row, index] += weight * count * (k1 + 1) / (count + norm[index])
    return rank_scores(similarity, found.gold)


def random_scores(found: RetrievalSet) -> RetrievalScores:
    """Return what a random order scores on average (for one gold passage per query, which is nearly always so)."""
    count = len(found.passages)
    first, five, ten = (min(1.0, k / count) for k in (1, 5, 10))
    return RetrievalScores(first, five, ten, sum(1 / math.log2(rank + 2) for rank in range(min(10, count))) / count)


@torch.no_grad()
def response_nats(
    model: CausalLM,
    encoder: PromptEncoder,
    texts: Sequence[Text],
    *,
    longest: int = 512,
    autocast: Autocast = nullcontext,
) -> float:
    """Return the mean loss in nats per predicted token; its exponential is the perplexity."""
    total, count = 0.0, 0
    ordered = sorted(texts, key=lambda text: text.size)
    for start in range(0, len(ordered), TEXT_ROWS):
        batch = text_batch(encoder, ordered[start : start + TEXT_ROWS], longest=longest).to(model.device)
        counted = int((batch.labels[:, 1:] != IGNORED).sum())
        if counted:
            with autocast():
                inner = model.model(input_ids=batch.ids, attention_mask=batch.attended, use_cache=False)
            mean = response_loss(inner.last_hidden_state.float(), model.lm_head.weight, batch.labels)
            total, count = total + float(mean) * counted, count + counted
    if not count:
        raise DataError(f"None of the {len(texts)} evaluation rows has a response within {longest} tokens.")
    return total / count


def as_table(scores: RetrievalScores) -> dict[str, float]:
    """Return scores as a dictionary of rounded numbers."""
    return {name: round(value, 4) for name, value in asdict(scores).items()}


def main() -> None:
    """Print the tables of a model card."""
    parser = argparse.ArgumentParser(description="Measure models on held-out data.")
    parser.add_argument("data", type=Path, help="folder that grit_integrations.training.convert wrote")
    parser.add_argument("models", type=Path, nargs="+", help="model directories, for instance RUN/start RUN/model")
    parser.add_argument("--sets", nargs="*", default=[], help="retrieval sets; all when not given")
    parser.add_argument("--rows", type=int, default=100, help="rows of each generation set")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    autocast = nullcontext if options.precision == "float32" else lambda: torch.autocast("cpu", torch.bfloat16)
    models = {path.name: (load_model(str(path)), PromptEncoder(load_tokenizer(path))) for path in options.models}
    folder = options.data / "evaluation"
    print("| set (queries) | passages | system | R@1 | R@5 | R@10 | nDCG@10 |\n|---|---|---|---|---|---|---|")  # noqa: T201
    for path in evaluation_files(folder / "retrieval", options.sets):
        found = load_retrieval(path)
        for name, scores in _systems(found, models, autocast):
            cells = " | ".join(f"{value:.3f}" for value in asdict(scores).values())
            row = f"| {found.name} ({len(found.queries)}) | {len(found.passages)} | {name} | {cells} |"
            print(row, flush=True)  # noqa: T201
    print("\n| held-out text (rows) | model | nats per token | perplexity |\n|---|---|---|---|")  # noqa: T201
    for kind, texts in _by_kind(folder / "generation", options.rows).items():
        for name, (model, encoder) in models.items():
            nats = response_nats(model, encoder, texts, autocast=autocast)
            print(f"| {kind} ({len(texts)}) | {name} | {nats:.3f} | {math.exp(nats):.1f} |", flush=True)  # noqa: T201


def _systems(
    found: RetrievalSet, models: Mapping[str, tuple[CausalLM, PromptEncoder]], autocast: Autocast
) -> Iterator[tuple[str, RetrievalScores]]:
    yield "random order", random_scores(found)
    yield "BM25", bm25_scores(found)
    for name, (model, encoder) in models.items():
        passages = embed(model, encoder, found.passages, autocast=autocast)
        for instructed in (False, True):
            label = f"{name}, instructed queries" if instructed else name
            yield label, query_scores(model, encoder, found, passages, instructed=instructed, autocast=autocast)


def _by_kind(folder: Path, rows: int) -> dict[str, list[Text]]:
    """Return held-out texts, with the sets `cloze-SOURCE`, `text-SOURCE`, ... of one kind together."""
    kinds: dict[str, list[Text]] = {}
    for path in evaluation_files(folder):
        kinds.setdefault(path.name.split("-", maxsplit=1)[0].removesuffix(".jsonl"), []).extend(load_texts(path)[:rows])
    return kinds


if __name__ == "__main__":
    main()
