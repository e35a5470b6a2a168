"""What is printed and what is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grit_integrations import GritLM
from grit_integrations.evaluation.report import Table, described, environment, points, share, write_json, write_records


def test_a_table_is_markdown_whatever_its_cells_hold() -> None:
    table = Table("T", ("a|b", "n"), (("x|y", "1"),), labels=1)
    assert table.markdown().splitlines() == ["**T**", "", "| a\\|b | n |", "|---|---:|", "| x\\|y | 1 |"]


def test_figures_are_shares_or_points() -> None:
    estimate = {"value": 0.1234, "low": 0.0, "high": 1.0}
    assert share(estimate) == "0.123"
    assert points(estimate) == "12.3 (0.0 to 100.0)"
    assert points(estimate, signed=True) == "+12.3 (+0.0 to +100.0)"


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    write_json(file, {"complete": False})
    with pytest.raises(ValueError, match=r"NaN|not JSON compliant"):
        write_json(file, {"figure": float("nan")})
    with pytest.raises(TypeError):
        write_json(file, {"figure": object()})
    assert json.loads(file.read_text()) == {"complete": False}
    write_records(file, [{"a": 1}, {"a": "ü"}])
    assert [json.loads(line) for line in file.read_text("utf-8").splitlines()] == [{"a": 1}, {"a": "ü"}]
    assert list(tmp_path.iterdir()) == [file]


def test_a_report_says_what_ran_and_no_path(tiny: GritLM, tiny_path: Path) -> None:
    about = described(tiny)
    assert about["model"] == tiny_path.name
    assert about["fingerprint"] == tiny.fingerprint
    assert str(tiny_path.parent) not in json.dumps([about, environment()])
    assert {"cpu", "threads", "torch", "transformers", "grit_integrations"} <= set(environment())
