"""Mined negatives: near, wrong, and not the answer after all. grit-mini's embeddings, no training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grit_integrations import DataError, GritLM
from grit_integrations.evaluation.row_kinds import parse_pair
from grit_integrations.training.prepare.mine import mine
from grit_integrations.training.rows.row_files import open_files

HEART = "The heart pumps blood through the body. It beats all day. It never rests."
LUNGS = "The lungs give the blood air that the heart pumps on."
STARS = "Stars shine because hydrogen turns into helium in their core."
OTHER = "The heart of a whale pumps blood slowly, eight beats a minute."


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    pairs = [
        {"query": ["Find it", "What pumps blood?"], "pos": [HEART], "neg": []},
        {"query": ["Find it", "What gives the blood air?"], "pos": [LUNGS], "neg": []},
        {"query": ["Find it", "Why do stars shine?"], "pos": [STARS], "neg": []},
        {"query": ["Find it", "How fast does a whale's heart beat?"], "pos": [OTHER], "neg": []},
    ]
    write(tmp_path / "embedding" / "facts.jsonl", pairs)
    return tmp_path


def test_near_and_wrong_passages_are_negatives(data: Path, mini: GritLM) -> None:
    assert mine(mini, data, negatives=2) == {"facts": 4}
    (file,) = open_files(data / "reranking", parse_pair)
    first = file[0]
    assert (first.instruction, first.query, first.positives) == ("Find it", "What pumps blood?", (HEART,))
    assert set(first.negatives) == {LUNGS, OTHER}  # not the stars
    assert all(set(file[row].positives).isdisjoint(file[row].negatives) for row in range(len(file)))


def test_passages_with_the_answer_are_none(data: Path, mini: GritLM) -> None:
    write(
        data / "rag" / "facts.jsonl",
        [{"context": HEART, "questions": [{"question": "What pumps blood?", "answer": "heart"}]}],
    )
    assert mine(mini, data) == {"facts": 4, "sentences--facts": 1}
    facts, spoken = open_files(data / "reranking", parse_pair)
    assert facts[0].negatives == (STARS,)  # the others hold the answer, whatever the case of its letters
    assert spoken[0].positives == ("The heart pumps blood through the body.",)
    assert spoken[0].negatives == ("It beats all day.", "It never rests.", STARS)


def test_no_file_matches(data: Path, mini: GritLM) -> None:
    with pytest.raises(DataError, match=r"No file of .* matches squad\*"):
        mine(mini, data, files=["squad*"])
    assert not (data / "reranking").exists()
