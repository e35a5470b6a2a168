"""What is no index, or says nothing of itself that can be read, is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock

from grit_integrations import GritLM, IngestError
from grit_integrations.ingest import PassageIndex
from grit_integrations.ingest.index_card import create_card, write_card


def test_what_is_no_store(tmp_path: Path, tiny: GritLM) -> None:
    with pytest.raises(IngestError, match="no store at"):
        PassageIndex(tmp_path / "nothing", tiny)
    assert not (tmp_path / "nothing").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("mine")
    with pytest.raises(IngestError, match="not empty and holds no store"):
        PassageIndex(tmp_path / "full", tiny, create=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(IngestError, match="is a file"):
        PassageIndex(tmp_path / "file", tiny, create=True)


@pytest.mark.parametrize(
    "card",
    [
        *("{", "[]", "\xff", "[" * 100_000, '{"format": 99}', '{"format": 1}'),
        '{"format": 1, "origin": {}, "passage_tokens": 99}',
        '{"format": 1, "origin": [], "passage_tokens": 99}',
        '{"format": 1, "origin": {"model": 1}, "passage_tokens": 99}',
        '{"format": 1, "origin": {"model": "grit-mini"}, "passage_tokens": 99}',
        '{"format": 1, "origin": {"model": "grit-mini"}, "passage_tokens": "99"}',
    ],
)
def test_damaged_cards(tmp_path: Path, tiny: GritLM, card: str) -> None:
    (tmp_path / "store.json").write_text(card, encoding="latin-1")
    with pytest.raises(IngestError, match=r"again|another directory"):
        PassageIndex(tmp_path, tiny, create=True)


def test_a_pipe_in_the_place_of_a_card_never_blocks(tmp_path: Path, tiny: GritLM) -> None:
    os.mkfifo(tmp_path / "store.json")
    with pytest.raises(IngestError, match=r"cannot be read \(it is no regular file any more\)"):
        PassageIndex(tmp_path, tiny, create=True)


def test_a_directory_that_is_not_utf8_is_refused_before_it_is_made(tmp_path: Path, tiny: GritLM) -> None:
    place = tmp_path / os.fsdecode(b"ind\xe9x")
    with pytest.raises(IngestError, match="not UTF-8"):
        PassageIndex(place, tiny, create=True)
    assert not place.exists()


def test_what_an_interrupted_start_left_is_no_obstacle(tmp_path: Path, tiny: GritLM) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / "store.json.4711").write_text("{")
    assert PassageIndex(tmp_path, tiny, create=True).count() == 0


def test_of_two_that_make_an_index_the_second_takes_what_the_first_made(tmp_path: Path, tiny: GritLM) -> None:
    first = create_card(tmp_path / "store", tiny, 64)
    assert create_card(tmp_path / "store", tiny, 96) == first
    with FileLock(tmp_path / "store" / "lock"), pytest.raises(IngestError, match="Another process is writing"):
        create_card(tmp_path / "store", tiny, 96)


def test_a_card_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, tiny: GritLM) -> None:
    create_card(tmp_path, tiny, 64)
    with pytest.raises(TypeError):
        write_card(tmp_path, {"format": object()})
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "lock") == ["store.json"]
    assert PassageIndex(tmp_path, tiny).splitter.tokens == 64
