"""The order of batches is a function of files, plan, seed and position."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grit_integrations.errors import DataError
from grit_integrations.evaluation.row_kinds import Pair, parse_pair
from grit_integrations.training.rows.row_files import RowFile, open_files
from grit_integrations.training.rows.stream import BatchPlan, Position, Stream


def write(path: Path, lines: list[str]) -> Path:
    path.write_bytes("".join(line + "\n" for line in lines).encode())
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[RowFile[Pair]]:
    for name, count in (("a", 17), ("b", 40)):
        lines = [json.dumps({"query": f"{name} {at}", "pos": [f"{name}{at} " * (at + 1)]}) for at in range(count)]
        write(tmp_path / f"{name}.jsonl", lines)
    return open_files(tmp_path, parse_pair)


PLAN = BatchPlan(tokens=160, longest=64, rows=8, same_file=True, least=2)


def stream(files: list[RowFile[Pair]], **weights: float) -> Stream[Pair]:
    return Stream(files, PLAN, weights=weights, seed=3)


def epoch(batches: Stream[Pair]) -> list[list[Pair]]:
    number, found = batches.position.epoch, []
    while batches.position.epoch == number:
        found.append(next(batches))
    return found


def test_an_epoch_sees_every_row_once_in_batches_of_one_file(files: list[RowFile[Pair]]) -> None:
    batches = epoch(stream(files))
    seen = [pair.query for batch in batches for pair in batch]
    assert len(seen) == len(set(seen))
    assert len(seen) >= 57 - 2  # at most one row that would stand alone is left out per file
    for batch in batches:
        assert len({pair.query[0] for pair in batch}) == 1
        longest = max(min(64, pair.size // 4 + 2) for pair in batch)
        assert 2 <= len(batch) <= 8
        assert longest * len(batch) <= 160


def test_epochs_differ_and_the_seed_repeats_them(files: list[RowFile[Pair]]) -> None:
    first, again = stream(files), stream(files)
    one, two = epoch(first), epoch(first)
    assert one != two
    assert [epoch(again), epoch(again)] == [one, two]


def test_seeking_continues_with_exactly_the_next_batch(files: list[RowFile[Pair]]) -> None:
    straight = stream(files)
    batches = [next(straight) for _ in range(40)]
    assert straight.position.epoch > 0
    for at in (0, 1, 5, 23, 39):
        counted, resumed = stream(files), stream(files)
        for _ in range(at):
            next(counted)
        resumed.seek(Position(counted.position.epoch, counted.position.batch))
        assert [next(resumed) for _ in range(40 - at)] == batches[at:]


def test_weights_repeat_sample_and_leave_out(files: list[RowFile[Pair]]) -> None:
    names = [pair.query[0] for batch in epoch(stream(files, a=2.0, b=0.5)) for pair in batch]
    assert names.count("a") in (33, 34)
    assert names.count("b") in (19, 20)
    assert {pair.query[0] for batch in epoch(stream(files, a=0.0)) for pair in batch} == {"b"}
    with pytest.raises(DataError, match="weights"):
        stream(files, a=0.0, b=0.0)


def test_batches_too_small_for_their_loss_are_left_out_and_having_no_other_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "one.jsonl", ['{"query": "q", "pos": ["p"]}'])
    only = Stream(open_files(tmp_path, parse_pair), PLAN, weights={}, seed=3)
    with pytest.raises(DataError, match=r"No batch of one\.jsonl has the 2 rows"):
        next(only)
