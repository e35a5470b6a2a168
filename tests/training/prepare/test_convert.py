"""Held-out sources and titles never reach the training rows, in any form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from grit_integrations.errors import DataError
from grit_integrations.evaluation.row_kinds import parse_pair, parse_text
from grit_integrations.training.prepare.convert import EVALUATION_TITLES, HELD_OUT_SOURCES, convert, is_evaluation_title
from grit_integrations.training.rows.row_files import open_files

SENTENCE = "Sentence {} of passage {} in {} says that thing number {} is unlike every other thing there."


def thing(number: int, source: str) -> int:
    return 1000 * len(source) + number * 10


def passage(number: int, source: str) -> str:
    return " ".join(
        SENTENCE.format(at, number, source.replace("/", " "), thing(number, source) + at) for at in range(4)
    )


def dump(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / f"{name}.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(data))


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    root = tmp_path / "shared"
    for source in ("some/manual", "openstax/astronomy"):
        texts = [passage(number, source) for number in range(60)]
        name = source.replace("/", "_")
        dump(root / "corpus", name, [{"title": "Plain Title", "text": text, "source": source} for text in texts])
        heading, rule = f"heading:{source}", f"rule:{source}"
        dump(
            root / "pairs",
            f"h-{name}",
            [{"query": f"Heading {{ #{source} }}", "positive": t, "source": heading} for t in texts],
        )
        question = {"question": "What is unlike every other thing?", "answer": "thing", "title": "Plain Title"}
        dump(root / "qa", f"r-{name}", [{**question, "context": text, "source": rule} for text in texts])
    held = passage(3, "some/wiki")
    wiki = {"question": "Who built it?", "answer": "", "title": "Steam_engine", "source": "squad", "context": held}
    dump(root / "qa", "squad", [wiki, {**wiki, "title": "Another title", "context": passage(4, "some/wiki")}])
    quoted = " ".join(held.split()[5:40])  # a passage of another source that quotes a held-out one
    dump(root / "pairs", "quoting", [{"query": "q", "positive": quoted, "source": "nqg"}])
    return root


def training_text(out: Path) -> str:
    pairs = [file[at] for file in open_files(out / "embedding", parse_pair) for at in range(len(file))]
    texts = [file[at] for file in open_files(out / "generative", parse_text) for at in range(len(file))]
    return "\n".join([pair.positives[0] for pair in pairs] + [turn for text in texts for turn in text.turns])


def test_held_out_sources_and_titles_are_only_evaluated(shared: Path, tmp_path: Path) -> None:
    manifest = convert(shared, tmp_path / "out")
    text = training_text(tmp_path / "out")
    assert "openstax astronomy" not in text
    assert "passage 3 in some wiki" not in text
    assert "passage 4 in some wiki" in text
    assert text.count("some manual") > 60
    assert not any("astronomy" in name for name in [*manifest["embedding"], *manifest["generative"]])
    assert manifest["retrieval"]["questions-openstax-astronomy"] == 60
    assert manifest["generation"]["text-openstax-astronomy"] == 60


def test_a_passage_that_quotes_a_held_out_one_goes(shared: Path, tmp_path: Path) -> None:
    assert "nqg" not in convert(shared, tmp_path / "out")["embedding"]


def test_handwritten_questions_find_their_passages(shared: Path, tmp_path: Path) -> None:
    questions, asked = tmp_path / "questions.jsonl", thing(7, "openstax/astronomy")
    row = {"query": "Which?", "contains": [f"thing number {asked} is"], "source": "openstax/astronomy"}
    questions.write_text(json.dumps(row) + "\n")
    convert(shared, tmp_path / "out", questions_file=questions)
    folder = tmp_path / "out" / "evaluation" / "retrieval"
    made = json.loads((folder / "handwritten.jsonl").read_text())
    assert made["pos"] == [passage(7, "openstax/astronomy")]
    assert len((folder / "handwritten.corpus.jsonl").read_text().splitlines()) == 60
    questions.write_text(json.dumps({**row, "contains": ["nothing says this"]}) + "\n")
    with pytest.raises(DataError, match=r"questions\.jsonl line 1"):
        convert(shared, tmp_path / "other", questions_file=questions)


def test_titles_decide_alike_in_every_source() -> None:
    assert is_evaluation_title("Steam_engine") == is_evaluation_title("Steam engine — History") is True
    assert "steam engine" in EVALUATION_TITLES
    share = sum(is_evaluation_title(f"Title {number}") for number in range(2000)) / 2000
    assert 0.03 < share < 0.07
    assert set(HELD_OUT_SOURCES) == {"fastapi/fastapi", "openstax/astronomy", "openstax/us-history"}
