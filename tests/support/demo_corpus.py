"""The questions of a demo's corpus."""

from __future__ import annotations

import json
from pathlib import Path

CORPUS = Path(__file__).parents[2] / "examples" / "corpus"


def write_question(corpus: Path, **changes: object) -> None:
    row = {"question": "What pumps blood?", "sources": ["body/heart.md"], "answer": "heart", **changes}
    (corpus / "questions.json").write_text(json.dumps([row]))
