"""What the README shows runs as it stands, and its figures are those that the benchmarks wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results"


def test_the_first_example_runs_and_has_ten_lines(capsys: pytest.CaptureFixture[str]) -> None:
    example = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)[0]
    assert len(example.strip().splitlines()) <= 10
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "The Moon drifts away by 3.8 centimeters per year."
    assert "'input_tokens'" in printed[1]
    assert printed[2] == "True"


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_speed_figures_are_the_benchmark_s() -> None:
    result = json.loads((RESULTS / "embedding.json").read_text())
    for name, slower in result["speedup"].items():
        row = f"| {name} | {result['tokens_per_second'][name]:,.0f} | {slower:.2f} |"
        assert row in README


def test_memory_figures_are_the_benchmark_s() -> None:
    result = json.loads((RESULTS / "memory.json").read_text())
    added = result["added_bytes"]
    for name, bytes_ in added.items():
        row = f"| {name} | {bytes_ / 1e6:,.0f} MB | {bytes_ / added['one GritLM, no framework']:.2f} |"
        assert row in README
