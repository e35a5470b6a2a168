"""Lines of JSON, packed and not: what needs an extra says so, and only then."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import zstandard

from grit_integrations import MissingExtraError
from grit_integrations.errors import DataError
from grit_integrations.evaluation.json_lines import read_json_lines, read_rows


def test_packed_lines_are_those_of_the_plain_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n\n3\n')
    (tmp_path / "b.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress((tmp_path / "a.jsonl").read_bytes()))
    plain, packed = (list(read_json_lines(tmp_path / name)) for name in ("a.jsonl", "b.jsonl.zst"))
    assert plain == packed == [(1, {"text": "one"}), (3, 3)]


def test_a_line_that_is_refused_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("1\n\ntwo\n")
    with pytest.raises(DataError, match=r"a\.jsonl line 3 is not JSON"):
        list(read_json_lines(tmp_path / "a.jsonl"))
    (tmp_path / "b.jsonl").write_text('"1"\n"x"\n')
    with pytest.raises(DataError, match=r"b\.jsonl line 2: invalid literal"):
        list(read_rows(tmp_path / "b.jsonl", int))


def test_only_packed_files_need_zstandard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    for name in ("a.jsonl", "b.jsonl.zst"):
        (tmp_path / name).write_text("3\n")
    assert list(read_json_lines(tmp_path / "a.jsonl")) == [(1, 3)]
    with pytest.raises(MissingExtraError, match=r"`zstandard` is not installed.*grit_integrations\[evaluate\]"):
        list(read_json_lines(tmp_path / "b.jsonl.zst"))
