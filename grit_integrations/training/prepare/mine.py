"""Hard negatives: for each query of the pairs, the passages that a model takes for its answer and that are not.

Usage: `python -m grit_integrations.training.prepare.mine MODEL DATA [--files PATTERN ...]`. `DATA` is the folder of a
run's rows. For each file of `DATA/embedding` that a pattern matches, `DATA/reranking` gets a file of the same name with
`{"query": ..., "pos": [...], "neg": [...]}`, the nearest negatives first. Where `DATA/rag` has the answers to a file's
questions, passages with an answer in them are no negatives, and `sentences--NAME.jsonl` has the same for the sentences
of the passages.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from grit_integrations.errors import DataError
from grit_integrations.evaluation.json_lines import JsonRow
from grit_integrations.evaluation.row_kinds import Pair, parse_pair
from grit_integrations.model import GritLM
from grit_integrations.quoting.sentences import sentences
from grit_integrations.training.rows.question_rows import parse_question
from grit_integrations.training.rows.row_files import RowFile, row_files

NEGATIVES = 12  # of a query, at most
LONGEST = 2_000  # characters of a passage that is embedded
_BLOCK = 512  # queries that are compared with all passages at once


def mine(model: GritLM, data: Path, *, files: Sequence[str] = ("*",), negatives: int = NEGATIVES) -> dict[str, int]:
    """Write the negatives of every matching file and return how many rows each has.

    Args:
        model: embeds queries and passages.
        data: the folder of `embedding`, and perhaps `rag`.
        files: patterns of names, without their endings.
        negatives: of a query, at most.

    Raises:
        DataError: no file matches, or one has a wrong row.
    """
    paths = [path for path in row_files(data / "embedding") if any(fnmatch.fnmatch(path.stem, each) for each in files)]
    if not paths:
        raise DataError(f"No file of {data / 'embedding'} matches {', '.join(files)}. Give other patterns.")
    answers = _answers(data / "rag")
    written: dict[str, int] = {}
    for path in paths:
        pairs = list(_rows(path))
        mined = list(_mined(model, pairs, answers, negatives))
        written[path.stem] = _write(data / "reranking" / f"{path.stem}.jsonl", mined)
        spoken = [row for each in mined for row in _sentence_rows(each, answers, negatives)]
        if spoken:
            written[f"sentences--{path.stem}"] = _write(data / "reranking" / f"sentences--{path.stem}.jsonl", spoken)
    return written


def _rows(path: Path) -> Iterator[Pair]:
    file = RowFile(path, parse_pair)
    yield from (file[index] for index in range(len(file)))


def _answers(folder: Path) -> dict[str, set[str]]:
    """Return the answers of every question, in small letters."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in row_files(folder) if folder.is_dir() else ():
        file = RowFile(path, parse_question)
        for index in range(len(file)):
            for each in file[index].asked:
                found[each.question].update([each.answer.lower()] if each.answer else [])
    return found


def _mined(model: GritLM, pairs: Sequence[Pair], answers: Mapping[str, set[str]], negatives: int) -> Iterator[JsonRow]:
    positives: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        positives[pair.query].update(pair.positives)
    passages = list(dict.fromkeys(text for pair in pairs for text in pair.positives))
    vectors = model.embed_documents([text[:LONGEST] for text in passages], truncate=True)
    for start in range(0, len(pairs), _BLOCK):
        block = pairs[start : start + _BLOCK]
        near = _nearest(_queries(model, block) @ vectors.T, 4 * negatives)
        for pair, places in zip(block, near, strict=True):
            wrong = positives[pair.query], answers.get(pair.query, set())
            found = [passages[place] for place in places if not _is_right(passages[place], *wrong)]
            if found:
                yield {"query": [pair.instruction, pair.query], "pos": [*pair.positives], "neg": found[:negatives]}


def _queries(model: GritLM, pairs: Sequence[Pair]) -> npt.NDArray[np.float32]:
    return model.embed_queries([pair.query for pair in pairs], instruction=pairs[0].instruction, truncate=True)


def _nearest(scores: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.intp]:
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def _is_right(passage: str, positives: set[str], answers: set[str]) -> bool:
    said = passage.lower()
    return passage in positives or any(answer in said for answer in answers)


def _sentence_rows(row: JsonRow, answers: Mapping[str, set[str]], negatives: int) -> Iterator[JsonRow]:
    """Yield the sentence of the positive that has the answer, against its others and those of the nearest negatives."""
    wanted = answers.get(row["query"][1], set())
    own = [_sentences(text) for text in row["pos"]]
    right = [text for texts in own for text in texts if any(answer in text.lower() for answer in wanted)]
    if len(right) != 1 or len(right[0].split()) < 4:  # a caption answers nothing
        return
    others = [text for texts in own for text in texts if text != right[0]]
    others += [text for passage in row["neg"][:2] for text in _sentences(passage)]
    kept = list(dict.fromkeys(others))[:negatives]
    if kept:
        yield {"query": row["query"], "pos": right, "neg": kept}


def _sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


def _write(path: Path, rows: Sequence[JsonRow]) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return len(rows)


def main() -> None:
    """Mine from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="directory of a checkpoint, or grit-mini")
    parser.add_argument("data", type=Path)
    parser.add_argument("--files", nargs="+", default=["*"], metavar="PATTERN", help="names without .jsonl")
    parser.add_argument("--negatives", type=int, default=NEGATIVES)
    options = parser.parse_args()
    model = GritLM.from_pretrained(options.model)
    written = mine(model, options.data, files=options.files, negatives=options.negatives)
    print(json.dumps(written, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
