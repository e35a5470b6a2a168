"""Held-out sets, ranks, and the loss on held-out responses: what a training run watches and an evaluation measures.

The loss works on transformers' own model object, which the trainer changes between two looks.
`grit_integrations.evaluation` measures a finished model through `GritLM`, the path that users run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from grit_integrations.errors import DataError
from grit_integrations.training.objectives.losses import response_loss
from grit_integrations.training.rows.batches import IGNORED, PromptEncoder, text_batch
from grit_integrations.training.rows.row_files import Text, parse_pair, parse_text, read_json_lines

TEXT_ROWS = 16
CausalLM = Any  # a transformers causal LM: `.model` is the decoder without the head, `.lm_head` the head
Scores = npt.NDArray[np.floating[Any]]
Ranks = npt.NDArray[np.int64]
Autocast = Callable[[], AbstractContextManager[None]]
Row = TypeVar("Row")


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
    """Read `NAME.jsonl` (`{"query", "pos"}`) and, when it is there, `NAME.corpus.jsonl` (`{"text"}`).

    Raises:
        DataError: no rows, or one that is wrong, by file and line.
    """
    pairs = list(read_rows(path, parse_pair))[:queries]
    if not pairs:
        raise DataError(f"{path} has no rows to evaluate.")
    numbers: dict[str, int] = {}
    gold = tuple(tuple(numbers.setdefault(text, len(numbers)) for text in pair.positives) for pair in pairs)
    for text in load_corpus(path):
        if passages is None or len(numbers) < passages:
            numbers.setdefault(text, len(numbers))
    texts = tuple(pair.query for pair in pairs)
    return RetrievalSet(path.name.removesuffix(".jsonl"), pairs[0].instruction, texts, tuple(numbers), gold)


def load_corpus(path: Path) -> list[str]:
    """Read the passages beside the retrieval set at `path` that answer none of its queries; none without the file.

    Raises:
        DataError: a row without text, by file and line.
    """
    corpus = path.with_name(path.name.removesuffix(".jsonl") + ".corpus.jsonl")
    return list(read_rows(corpus, _parse_passage)) if corpus.exists() else []


def load_texts(path: Path) -> list[Text]:
    """Read the rows of a generation set.

    Raises:
        DataError: a row that is wrong, by file and line.
    """
    return list(read_rows(path, parse_text))


def read_rows(path: Path, parse: Callable[[Any], Row]) -> Iterator[Row]:
    """Yield what `parse` makes of each line.

    Raises:
        DataError: `parse` refuses a line with a `ValueError`; names the file and the line.
    """
    number = 0
    try:
        for number, row in read_json_lines(path):  # noqa: B007  # the error names it
            yield parse(row)
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"{path} line {number}: {error}.") from error


def _parse_passage(row: Any) -> str:
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise ValueError('"text" must be a passage that is not blank')
    return text


def evaluation_files(folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """Return the sets of a folder, or those that are named."""
    if names:
        return [folder / f"{name}.jsonl" for name in names]
    return sorted(path for path in folder.glob("*.jsonl") if not path.name.endswith(".corpus.jsonl"))


def gold_ranks(similarity: Scores, gold: Sequence[Sequence[int]]) -> Ranks:
    """Return how many other passages stand above the best-ranked gold passage of each query, (queries,); 0 is first.

    A tie with another passage counts as below it, so a model that tells nothing apart finds nothing.

    Args:
        similarity: (queries, passages).
        gold: per query, the passages that answer it; finding any one of them is enough.
    """
    return np.array([_rank(row, answers) for row, answers in zip(similarity, gold, strict=True)])


def _rank(row: Scores, answers: Sequence[int]) -> int:
    others = np.delete(row, list(answers))
    return int((others >= row[list(answers)].max()).sum())


def rank_scores(similarity: Scores, gold: Sequence[Sequence[int]]) -> RetrievalScores:
    """Return recall and nDCG of the ranks that `gold_ranks` finds."""
    ranks = gold_ranks(similarity, gold)
    gain = np.where(ranks < 10, 1 / np.log2(ranks + 2), 0.0)
    first, five, ten = (float((ranks < k).mean()) for k in (1, 5, 10))
    return RetrievalScores(first, five, ten, float(gain.mean()))


def response_nats(
    model: CausalLM,
    encoder: PromptEncoder,
    texts: Sequence[Text],
    *,
    longest: int = 512,
    autocast: Autocast = nullcontext,
) -> float:
    """Return the mean loss in nats per predicted token; its exponential is the perplexity.

    Raises:
        DataError: no row has a response within `longest` tokens.
    """
    total, count = 0.0, 0
    ordered = sorted(texts, key=lambda text: text.size)
    for start in range(0, len(ordered), TEXT_ROWS):
        rows = ordered[start : start + TEXT_ROWS]
        nats, tokens = summed_nats(model, encoder, rows, longest=longest, autocast=autocast)
        total, count = total + nats, count + tokens
    if not count:
        raise DataError(f"None of the {len(texts)} evaluation rows has a response within {longest} tokens.")
    return total / count


@torch.no_grad()
def summed_nats(
    model: CausalLM, encoder: PromptEncoder, texts: Sequence[Text], *, longest: int, autocast: Autocast = nullcontext
) -> tuple[float, int]:
    """Return the loss of one batch of texts in nats, summed over its predicted tokens, and how many those are."""
    batch = text_batch(encoder, texts, longest=longest).to(model.device)
    tokens = int((batch.labels[:, 1:] != IGNORED).sum())
    if not tokens:
        return 0.0, 0
    with autocast():
        inner = model.model(input_ids=batch.ids, attention_mask=batch.attended, use_cache=False)
    head = model.lm_head.weight
    mean = response_loss(inner.last_hidden_state.to(head.dtype), head, batch.labels)
    return float(mean) * tokens, tokens


def as_table(scores: RetrievalScores) -> dict[str, float]:
    """Return scores as a dictionary of rounded numbers."""
    return {name: round(value, 4) for name, value in asdict(scores).items()}
