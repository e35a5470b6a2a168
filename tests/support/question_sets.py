"""Questions, passages and rows of a folder of held-out sets, small enough to read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from grit_integrations.prompts.formats import rag_prompt

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
