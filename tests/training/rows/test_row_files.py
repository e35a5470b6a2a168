"""Rows are checked when a file is opened, and come back in any order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grit_integrations.errors import DataError
from grit_integrations.evaluation.row_kinds import Pair, TextRow, parse_pair, parse_text
from grit_integrations.training.rows.row_files import RowFile, open_files, open_mixed

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
    assert parse_text({"text": ["do", "done"]}) == TextRow(("do", "done"))


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
