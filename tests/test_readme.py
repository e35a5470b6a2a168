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


def test_the_caching_example_reads_its_document_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = (
        code for code in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL) if "KVCacheStore" in code
    )
    exec(compile(example, "README.md", "exec"), {})
    first, second, prompt = map(int, capsys.readouterr().out.split())
    assert first == 0 and second > 0.9 * prompt


def test_caching_figures_are_the_benchmark_s() -> None:
    rows = json.loads((RESULTS / "caching.json").read_text())["rows"]
    table = re.findall(r"^\| ([^|]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", README, flags=re.MULTILINE)
    arms = {row["arm"] for row in rows}
    table = [row for row in table if row[0].strip() in arms]
    assert len(table) > 10
    size = {"question": 32, "new": 16}
    for arm, *shown in table:
        found = [
            row
            for document in (500, 4000)
            for row in rows
            if row["arm"] == arm.strip() and all(row.get(k) == v for k, v in {**size, "document": document}.items())
        ]
        figures = [f"{row[what]['median']:.{digits}f}" for row in found for what, digits in (("ttft", 3), ("total", 2))]
        assert shown == figures, arm


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
