"""A folder of held-out sets, small enough to read, in the converter's layout."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from grit_integrations.prompts import rag_prompt

INSTRUCTION = "Given a question, retrieve passages that answer the question"
PASSAGES = {
    "Mill": "The mill at Arnwick was built in 1790 by Ada Brook. It grinds wheat and rye for the whole valley.",
    "Lighthouse": "The lighthouse stands near Corvale on a red cliff. Its lamp burns the oil of whales at night.",
    "Orchard": "Three hundred apple trees grow in the orchard. Its owner makes cider from the fruit in autumn.",
    "Bridge": "A bridge of grey stone crosses the river. Farmers drive their sheep over it to the market.",
}
QUESTIONS = (
    ("Mill", "When was the mill built?", "1790"),
    ("Mill", "Who built the mill?", "Ada Brook"),
    ("Lighthouse", "What does the lamp of the lighthouse burn?", "the oil of whales"),
    ("Orchard", "What does the owner of the orchard make?", "cider"),
    ("Bridge", "What do farmers drive over the bridge?", "their sheep"),
    ("Bridge", "Who paid for the bridge?", ""),
    ("Orchard", "When was the orchard planted?", ""),
)
DISTRACTORS = (
    "Bread is baked before sunrise in the town.",
    "Snow fell for nine days in March.",
    "The choir sings on Sundays.",
)


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def question_row(title: str, question: str, answer: str) -> dict[str, Any]:
    context = f"{title} {PASSAGES[title]}"
    text = [rag_prompt(question, [context]), answer or "The context does not say."]
    return {"text": text, "question": question, "context": context, "title": title, "answer": answer}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the converter writes, in miniature: one set of each kind."""
    root = tmp_path / "data" / "evaluation"
    pairs = [{"query": [INSTRUCTION, asked], "pos": [PASSAGES[title]]} for title, asked, answer in QUESTIONS if answer]
    corpus = [{"text": text} for text in DISTRACTORS]
    for name in ("squad-tiny", "headings-tiny"):
        write_rows(root / "retrieval" / f"{name}.jsonl", pairs)
        write_rows(root / "retrieval" / f"{name}.corpus.jsonl", corpus)
    write_rows(root / "generation" / "squad-tiny.jsonl", [question_row(*each) for each in QUESTIONS])
    write_rows(root / "generation" / "text-tiny.jsonl", [{"text": text} for text in PASSAGES.values()])
    return tmp_path / "data"
