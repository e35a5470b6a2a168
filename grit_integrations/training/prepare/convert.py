"""Turn the corpus, pairs and questions that grit-mini is made of into the trainer's rows, and hold data out.

It knows the sources of that one model; the trainer reads rows however they were made.

Usage: `python -m grit_integrations.training.prepare.convert SOURCE_DATA OUT [--questions FILE]`. `SOURCE_DATA` has the
folders `corpus` (`title`, `text`, `source`), `pairs` (`query`, `positive`, `source`) and `qa` (`context`, `question`,
`answer`, `title`, `source`), each of `.jsonl` or `.jsonl.zst` files. `OUT` gets

    embedding/SOURCE.jsonl              {"query": ..., "pos": [...], "neg": []}
    generative/SOURCE.jsonl             {"text": "..."} or {"text": [instruction, response]}
    rag/SOURCE.jsonl                    {"context": ..., "questions": [{"question": ..., "answer": ...}, ...],
                                        "others": [...]}, an answer being words of the context, or empty where it does
                                        not say; others are contexts of the same document
    evaluation/retrieval/NAME.jsonl     {"query": ..., "pos": [...]}, with NAME.corpus.jsonl {"text": ...} beside it
    evaluation/generation/NAME.jsonl    {"text": [instruction, response]}, of a question on a passage with "question",
                                        "context" (title and passage, as it is read), "title" and "answer" beside it
    manifest.json                       what was kept, held out and dropped, by source
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grit_integrations.errors import DataError
from grit_integrations.evaluation.json_lines import JsonRow, read_json_lines
from grit_integrations.evaluation.phrases import INSTRUCTIONS, NO_ANSWER
from grit_integrations.prompts.formats import rag_prompt

HELD_OUT_SOURCES = ("fastapi/fastapi", "openstax/astronomy", "openstax/us-history")
EVALUATION_PERCENT = 5
EVALUATION_TITLES = frozenset({"amazon rainforest", "black death", "normans", "steam engine"})  # with human questions
DISTRACTORS = {"squad-v1.1-dev-part": "openstax-us-history", "selqa": "openstax-us-history"}
OVERLAP_WORDS = 13  # a training row that shares this many words in a row with an evaluation passage is dropped
RETRIEVAL_QUERIES = 300
RETRIEVAL_PASSAGES = 1000
GENERATION_ROWS = 200
HUMAN_ROWS = 600  # of each set of human questions: what the answers are measured on
RULE_WORDS = 5  # shorter questions that a rule made ("What is it?") fit any passage
HUMAN = ("squad", "selqa", "covid-qa")  # sources whose questions people asked
NEIGHBOURS = 6  # contexts of the same document beside one, at most
SMALLEST_SET = 50  # an evaluation set of fewer rows is left out
HANDWRITTEN = "handwritten"

_ANCHOR = re.compile(r"(?<!\s)\s*+\{[^{}#]*+#[^{}]*+\}")  # "Title { #title }", as some manuals write headings
_WORD = re.compile(r"[a-z0-9]+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


def base_source(source: str) -> str:
    """Return the source that a derived row comes from: `heading:openstax/astronomy` -> `openstax/astronomy`."""
    return source.split(":", 1)[1] if ":" in source else source


def is_evaluation_title(title: str) -> bool:
    """Tell whether a document is held out for evaluation, by its title alone, so that no two sources disagree."""
    document = title.split(" — ", maxsplit=1)[0]
    key = " ".join(_WORD.findall(document.lower()))
    if key in EVALUATION_TITLES:
        return True
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 100 < EVALUATION_PERCENT


class Overlap:
    """Which word n-grams occur in evaluation passages."""

    def __init__(self, passages: Iterable[str]) -> None:
        self._grams: set[int] = set()
        for passage in passages:
            self._grams.update(_grams(passage, step=1))

    def touches(self, passage: str) -> bool:
        """Tell whether a passage shares `OVERLAP_WORDS` words in a row (up to 3 more) with an evaluation passage."""
        return any(gram in self._grams for gram in _grams(passage, step=4))


def _grams(text: str, step: int) -> Iterator[int]:
    words = _WORD.findall(text.lower())
    for start in range(0, max(1, len(words) - OVERLAP_WORDS + 1), step):
        yield hash(tuple(words[start : start + OVERLAP_WORDS]))


@dataclass
class Converted:
    """Rows by source, on their way to disk."""

    embedding: dict[str, list[JsonRow]] = field(default_factory=lambda: defaultdict(list))
    generative: dict[str, list[JsonRow]] = field(default_factory=lambda: defaultdict(list))
    rag: dict[str, list[JsonRow]] = field(default_factory=lambda: defaultdict(list))
    retrieval: dict[str, list[JsonRow]] = field(default_factory=lambda: defaultdict(list))
    retrieval_passages: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    generation: dict[str, list[JsonRow]] = field(default_factory=lambda: defaultdict(list))
    dropped: Counter[str] = field(default_factory=Counter)


def convert(source_data: Path, out: Path, *, questions_file: Path | None = None, seed: int = 0) -> dict[str, Any]:
    """Convert everything under `source_data` and return the manifest that was written.

    Args:
        source_data: the folder of `corpus`, `pairs` and `qa`.
        out: where the trainer's files go.
        questions_file: hand-written questions on the held-out sources, `{"query", "contains": [...], "source"}`; a
            passage of that source that has one of the phrases answers. They become the retrieval set `handwritten`.
        seed: of what is sampled.
    """
    corpus, pairs, questions = (_read_folder(source_data / name) for name in ("corpus", "pairs", "qa"))
    held_titles = _titled_passages(corpus, questions)
    overlap = Overlap(held_titles)
    rows = Converted()
    rng = random.Random(seed)  # noqa: S311  # sampling, not secrets
    _add_corpus(rows, corpus, overlap, rng)
    _add_pairs(rows, pairs, overlap)
    _add_questions(rows, _without_held_out_definitions(rows, questions, pairs), overlap)
    if questions_file is not None:
        _add_handwritten(rows, corpus, questions_file)
    return _write(rows, out, rng)


def _read_folder(folder: Path) -> list[JsonRow]:
    paths = sorted(p for p in folder.iterdir() if p.name.endswith((".jsonl", ".jsonl.zst")))
    return [row for path in paths for _, row in read_json_lines(path)]


def _is_held_out(row: JsonRow) -> bool:
    return base_source(row["source"]) in HELD_OUT_SOURCES


def _titled_passages(corpus: list[JsonRow], questions: list[JsonRow]) -> list[str]:
    held = [row["text"] for row in corpus if _is_held_out(row) or is_evaluation_title(row["title"])]
    human = [row for row in questions if ":" not in row["source"] and row["source"] != "glossary"]
    held += [row["context"] for row in human if is_evaluation_title(row["title"])]
    return held


def _add_corpus(rows: Converted, corpus: list[JsonRow], overlap: Overlap, rng: random.Random) -> None:
    for row in corpus:
        source = row["source"]
        if overlap.touches(row["text"]):
            rows.retrieval_passages[_group(source)].append(row["text"])
            rows.generation[f"text-{_group(source)}"].append({"text": row["text"]})
            continue
        rows.generative[f"text:{source}"].append({"text": f"{row['title']}\n{row['text']}"})
        pair = inverse_cloze(row["text"], rng)
        if pair is not None:
            rows.embedding[f"sentence:{source}"].append(pair)


def inverse_cloze(text: str, rng: random.Random) -> JsonRow | None:
    """Make a pair of a few words of one sentence and the passage, which keeps that sentence half of the time."""
    sentences = _SENTENCE_END.split(text)
    if len(sentences) < 3:
        return None
    at = rng.randrange(len(sentences))
    words = sentences[at].split()
    if len(words) < 6:
        return None
    length = rng.randint(4, 14)
    start = rng.randrange(max(1, len(words) - length + 1))
    query = " ".join(words[start : start + length])
    passage = text if rng.random() < 0.5 else " ".join(sentences[:at] + sentences[at + 1 :])
    return {"query": [INSTRUCTIONS["sentence"], query], "pos": [passage], "neg": []}


def instruction_for(source: str) -> str:
    """Return the instruction that the queries of a source carry."""
    kind = source.split(":", 1)[0] if ":" in source else "question"
    return INSTRUCTIONS.get(kind, INSTRUCTIONS["question"])


def _group(source: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", base_source(source)).strip("-")


def _add_pairs(rows: Converted, pairs: list[JsonRow], overlap: Overlap) -> None:
    for row in pairs:
        source, kind = row["source"], row["source"].split(":", 1)[0]
        query = _ANCHOR.sub("", row["query"])
        pair: JsonRow = {"query": [instruction_for(source), query], "pos": [row["positive"]]}
        if kind == "glossary" and not _is_held_out(row):
            rows.embedding[source].append({**pair, "neg": []})
        elif kind == "glossary" or overlap.touches(row["positive"]):
            if kind != "glossary":
                rows.retrieval[f"{'headings-' if kind == 'heading' else ''}{_group(source)}"].append(pair)
            else:
                rows.dropped[source] += 1
        else:
            rows.embedding[source].append({**pair, "neg": []})


def _without_held_out_definitions(rows: Converted, questions: list[JsonRow], pairs: list[JsonRow]) -> Iterator[JsonRow]:
    """Drop glossary questions that list, beside the right definition, one of a held-out source's glossary."""
    held = [row["positive"] for row in pairs if row["source"].startswith("glossary:") and _is_held_out(row)]
    for row in questions:
        leaks = row["source"].startswith("glossary:") and not _is_held_out(row)
        if leaks and any(definition.rstrip(".") in row["context"] for definition in held):
            rows.dropped[row["source"]] += 1
        else:
            yield row


def _add_questions(rows: Converted, questions: Iterable[JsonRow], overlap: Overlap) -> None:
    asked_of: dict[str, list[tuple[str, str, JsonRow]]] = defaultdict(list)
    for row in questions:
        source = row["source"]
        context = f"{row['title']} {row['context']}"
        text = [rag_prompt(row["question"], [context]), row["answer"] or NO_ANSWER]
        asked = {name: row[name] for name in ("question", "title", "answer")}
        pair = {"query": [INSTRUCTIONS["question"], row["question"]], "pos": [row["context"]]}
        if _is_held_out(row) or overlap.touches(row["context"]):
            kind = source.split(":", 1)[0] if ":" in source else ""
            name = f"{kind}-{_group(source)}".strip("-")
            rows.generation[name].append({"text": text, **asked, "context": context})
            if kind == "rule":
                rows.retrieval[f"questions-{_group(source)}"].append(pair)
        else:
            rows.generative[source].append({"text": text})
            answer = row["answer"] if row["answer"].strip() else ""
            if answer in context:
                asked_of[context].append((source, row["title"], {"question": row["question"], "answer": answer}))
            if source.startswith("rule:") and len(row["question"].split()) >= RULE_WORDS:
                rows.embedding[source].append({**pair, "neg": []})

    _add_asked(rows, asked_of)


def _add_asked(rows: Converted, asked_of: Mapping[str, Sequence[tuple[str, str, JsonRow]]]) -> None:
    """Add a row for each context: all questions about it, and for human ones other contexts of the same document."""
    documents: dict[tuple[str, str], list[str]] = defaultdict(list)
    for context, asked in asked_of.items():
        documents[asked[0][:2]].append(context)
    for context, asked in asked_of.items():
        source, title, _ = asked[0]
        row: JsonRow = {"context": context, "questions": [question for _, _, question in asked]}
        if source.startswith(HUMAN):
            row["others"] = _neighbours(documents[source, title], context)
        rows.rag[source].append(row)


def _neighbours(contexts: Sequence[str], context: str) -> list[str]:
    """Return the contexts around one in its document, the nearest first."""
    at = contexts.index(context)
    places = sorted(range(len(contexts)), key=lambda place: abs(place - at))
    return [contexts[place] for place in places[1 : 1 + NEIGHBOURS]]


def _add_handwritten(rows: Converted, corpus: list[JsonRow], path: Path) -> None:
    held = [row for row in corpus if _is_held_out(row)]
    for number, row in read_json_lines(path):
        answers = [
            passage["text"]
            for passage in held
            if passage["source"] == row["source"] and any(phrase in passage["text"] for phrase in row["contains"])
        ]
        if not answers:
            raise DataError(f"{path} line {number}: no passage of {row['source']} has {row['contains']}.")
        rows.retrieval[HANDWRITTEN].append({"query": [INSTRUCTIONS["question"], row["query"]], "pos": answers})
    rows.retrieval_passages[HANDWRITTEN] = [row["text"] for row in held]


def _write(rows: Converted, out: Path, rng: random.Random) -> dict[str, Any]:
    streams = {"embedding": rows.embedding, "generative": rows.generative, "rag": rows.rag}
    for stream, by_source in streams.items():
        for source, kept in by_source.items():
            _dump(out / stream / f"{_file_name(source)}.jsonl", kept)
    big = {name: found for name, found in rows.retrieval.items() if len(found) >= SMALLEST_SET or name == HANDWRITTEN}
    retrieval = {name: _sample(found, RETRIEVAL_QUERIES, rng) for name, found in big.items()}
    for name, found in retrieval.items():
        _dump(out / "evaluation" / "retrieval" / f"{name}.jsonl", found)
        passages = sorted(set(rows.retrieval_passages[_passage_group(name)]))
        passages = passages if name == HANDWRITTEN else _sample(passages, RETRIEVAL_PASSAGES, rng)
        _dump(out / "evaluation" / "retrieval" / f"{name}.corpus.jsonl", [{"text": text} for text in passages])
    enough = {name: found for name, found in rows.generation.items() if len(found) >= SMALLEST_SET}
    generation = {name: _sample(found, _generation_rows(name), rng) for name, found in enough.items()}
    for name, found in generation.items():
        _dump(out / "evaluation" / "generation" / f"{name}.jsonl", found)
    manifest = {
        "held_out_sources": list(HELD_OUT_SOURCES),
        **{
            stream: {source: len(kept) for source, kept in sorted(by_source.items())}
            for stream, by_source in streams.items()
        },
        "retrieval": {name: len(found) for name, found in sorted(retrieval.items())},
        "generation": {name: len(found) for name, found in sorted(generation.items())},
        "dropped": dict(rows.dropped),
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def _generation_rows(name: str) -> int:
    derived = name.split("-", 1)[0] in ("text", "cloze", "rule", "glossary", "factbook", "medquad")
    return GENERATION_ROWS if derived else HUMAN_ROWS


def _passage_group(name: str) -> str:
    for prefix in ("headings-", "questions-"):
        name = name.removeprefix(prefix)
    return DISTRACTORS.get(name, name)


def _sample(found: list[Any], count: int, rng: random.Random) -> list[Any]:
    return found if len(found) <= count else rng.sample(found, count)


def _file_name(source: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", source.replace(":", "--")).strip("_")


def _dump(path: Path, kept: list[JsonRow]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in kept:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def main() -> None:
    """Run the converter from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source_data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--questions", type=Path, help="hand-written questions on the held-out sources")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    manifest = convert(options.source_data, options.out, questions_file=options.questions, seed=options.seed)
    print(json.dumps(manifest, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
