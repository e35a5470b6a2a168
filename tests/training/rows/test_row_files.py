"""Rows are checked when a file is opened; the order of batches is a function of seed and position."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grit_integrations.training.rows.row_files import (
    DataError,
    Pair,
    RowFile,
    Text,
    open_files,
    open_mixed,
    parse_pair,
    parse_text,
)
from grit_integrations.training.rows.stream import BatchPlan, Position, Stream

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
instructed = words | st.tuples(st.text(), words).map(list)
pairs = st.fixed_dictionaries(
    {"query": instructed, "pos": st.lists(instructed, min_size=1, max_size=3)},
    optional={"neg": st.lists(instructed, max_size=3)},
).filter(lambda row: not set(map(text_of, row["pos"])) & set(map(text_of, row.get("neg", []))))
in_place = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)


def text_of(value: str | list[str]) -> str:
    return value if isinstance(value, str) else value[1]


def instruction_of(value: str | list[str]) -> str:
    return "" if isinstance(value, str) else value[0].strip("\t\n :")


def write(path: Path, lines: list[str]) -> Path:
    path.write_bytes("".join(line + "\n" for line in lines).encode())
    return path


@in_place
@given(rows=st.lists(pairs, min_size=1, max_size=8), blanks=st.sets(st.integers(0, 7)), squeeze=st.booleans())
def test_every_row_comes_back_in_any_order(
    tmp_path: Path, rows: list[dict[str, Any]], blanks: set[int], squeeze: bool
) -> None:
    lines = [line for at, row in enumerate(rows) for line in ([""] if at in blanks else []) + [json.dumps(row)]]
    path = write(tmp_path / "rows.jsonl", lines)
    if squeeze:
        packed = tmp_path / "rows.jsonl.zst"
        packed.write_bytes(zstandard.ZstdCompressor().compress(path.read_bytes()))
        path = packed
    file = RowFile(path, parse_pair)
    assert file.name == "rows"
    assert len(file) == len(rows)
    for at in reversed(range(len(rows))):
        row = rows[at]
        passages = [*row["pos"], *row.get("neg", [])]
        assert (file[at].instruction, file[at].query) == (instruction_of(row["query"]), text_of(row["query"]))
        assert file[at].positives == tuple(map(text_of, row["pos"]))
        assert file[at].negatives == tuple(map(text_of, row.get("neg", [])))
        assert file[at].passage_instructions in (tuple(map(instruction_of, passages)), ())
        assert bool(file[at].passage_instructions) == any(map(instruction_of, passages))


BAD = st.sampled_from(
    [
        "{",
        "3",
        "null",
        '"text"',
        '{"pos": ["a"]}',
        '{"query": "q", "pos": []}',
        '{"query": "q", "pos": "a"}',
        '{"query": "q", "pos": [" "]}',
        '{"query": ["a", "b", "c"], "pos": ["a"]}',
        '{"query": ["a", 3], "pos": ["a"]}',
        '{"query": "", "pos": ["a"]}',
        '{"query": "q", "pos": ["a"], "neg": [4]}',
        '{"query": "q", "pos": ["a"], "neg": null}',
        '{"query": "q"}',
        '{"query": "q", "pos": ["a", "b"], "neg": ["c", "b"]}',
        '{"query": "q", "pos": [["", "a"]], "neg": ["a"]}',
        '{"query": "q", "pos": [["a", "b", "c"]]}',
    ]
)


@in_place
@given(before=st.integers(0, 5), bad=BAD)
def test_a_bad_line_is_named_with_its_file(tmp_path: Path, before: int, bad: str) -> None:
    path = write(tmp_path / "some.jsonl", ['{"query": "q", "pos": ["p"]}'] * before + [bad])
    with pytest.raises(DataError) as caught:
        RowFile(path, parse_pair)
    assert f"{path} line {before + 1}" in str(caught.value)


def test_what_is_missing_or_twice_is_named(tmp_path: Path) -> None:
    for row, words in {
        '{"pos": ["a"]}': '"query" is missing',
        '{"query": "q"}': '"pos" is missing',
        '{"query": "q", "pos": ["a"], "neg": ["a"]}': '"neg" repeats a text of "pos": \'a\'',
    }.items():
        with pytest.raises(DataError, match=words):
            RowFile(write(tmp_path / "some.jsonl", [row]), parse_pair)
    with pytest.raises(DataError, match='"text" is missing'):
        RowFile(write(tmp_path / "some.jsonl", ['{"query": "q"}']), parse_text)


@pytest.mark.parametrize(
    "bad", ['{"text": []}', '{"text": ["a", "b", "c"]}', '{"text": ["a", ""]}', '{"text": 1}', "[]"]
)
def test_a_bad_text_is_named(tmp_path: Path, bad: str) -> None:
    path = write(tmp_path / "some.jsonl", ['{"text": "fine"}', "", bad])
    with pytest.raises(DataError, match="line 3"):
        RowFile(path, parse_text)


def test_bytes_that_are_not_text_and_a_cut_archive_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "\xff\xfe"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl line 1"):
        RowFile(tmp_path / "a.jsonl", parse_text)
    whole = zstandard.ZstdCompressor().compress(b'{"text": "fine"}\n' * 1000)
    (tmp_path / "b.jsonl.zst").write_bytes(b"junk" + whole)
    with pytest.raises(DataError, match=r"b\.jsonl\.zst cannot be decompressed"):
        RowFile(tmp_path / "b.jsonl.zst", parse_text)


def test_empty_and_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        open_files(tmp_path / "nowhere", parse_text)
    with pytest.raises(DataError, match=r"no \.jsonl"):
        open_files(tmp_path, parse_text)
    write(tmp_path / "empty.jsonl", ["", ""])
    with pytest.raises(DataError, match="no rows"):
        open_files(tmp_path, parse_text)


def test_instructions_are_stripped_as_the_reference_does() -> None:
    pair = parse_pair({"query": ["\n Find it: \t", " as it is "], "pos": [["", "p"]]})
    assert pair == Pair("Find it", " as it is ", ("p",))
    assert parse_text({"text": ["do", "done"]}) == Text(("do", "done"))


def test_a_folder_may_mix_the_streams(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", ['{"query": ["Find:", "q"], "pos": [["Find:", "p"]], "neg": [["Find:", "n"]]}'])
    write(tmp_path / "b.jsonl", ['{"text": ["do", "done"]}'])
    write(tmp_path / "c.jsonl", ['{"text": "plain"}'])
    pairs, texts = open_mixed(tmp_path)
    assert [file[0] for file in pairs] == [Pair("Find", "q", ("p",), ("n",), ("Find", "Find"))]
    assert [file[0].turns for file in texts] == [("do", "done"), ("plain",)]
    write(tmp_path / "d.jsonl", ['{"title": "neither"}'])
    with pytest.raises(DataError, match=r"d\.jsonl: the first row has neither"):
        open_mixed(tmp_path)


def test_the_content_of_a_file_is_known_by_its_rows_not_by_its_packing(tmp_path: Path) -> None:
    plain = RowFile(write(tmp_path / "a.jsonl", ['{"text": "one"}', '{"text": "two"}']), parse_text)
    (tmp_path / "b.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(plain.path.read_bytes()))
    assert RowFile(tmp_path / "b.jsonl.zst", parse_text).content == plain.content
    other = RowFile(write(tmp_path / "c.jsonl", ['{"text": "one"}', '{"text": "tow"}']), parse_text)
    assert other.content.size == plain.content.size
    assert other.content != plain.content


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
