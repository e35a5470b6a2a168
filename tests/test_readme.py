"""What the README shows runs as it stands, and its figures are those that the benchmarks wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import median

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


def test_reranking_figures_are_the_benchmark_s() -> None:
    result = json.loads((RESULTS / "reranking.json").read_text())
    middle = {name: median(values) for name, values in result["seconds"].items()}
    slowest = middle["passage-first, nothing stored"]
    rows = re.findall(r"^\| (?:passage|query|transformers)[^|]* \| ([\d.]+) \| ([\d.]+) \|$", README, re.MULTILINE)
    assert rows == [(f"{value:.3f}", f"{slowest / value:.1f}") for value in middle.values()]


def test_answer_figures_are_the_evaluation_s() -> None:
    result = json.loads((RESULTS / "grit-mini-answers.json").read_text())
    assert f"| answers, {result['settings']['questions']} questions: F1 |" in README
    (found,) = result["answers"].values()
    f1 = {(arm["documents"], arm["caching"], arm["method"]): arm["f1"] for arm in found["arms"]}
    for label, method in (("quoted (best sentence, best span)", "spans:1-echo"), ("free text", "free")):
        gold, top_1, top_3 = (f1[given, "off", method] for given in ("gold", "top 1", "top 3"))
        low, high = 100 * gold["low"], 100 * gold["high"]
        shown = f"{100 * gold['value']:.1f} ({low:.1f} to {high:.1f}) | {100 * top_1['value']:.1f} | "
        assert f"| {label}, caching `off` | {shown}{100 * top_3['value']:.1f} |" in README


def test_quality_figures_of_reranking_are_the_benchmark_s() -> None:
    result = json.loads((RESULTS / "retrieval.json").read_text())
    for figures in result["sets"].values():
        for name, row in figures["systems"].items():
            if name in README and "top" in name:
                gain = row["gain"]
                shown = f"{gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})"
                assert f"{row['ndcg@10']['value']:.3f}, {shown}" in README


def test_the_reranking_example_finds_the_moon(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = (code for code in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL) if ".rerank(" in code)
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines()[0].endswith("The Moon drifts away by 3.8 centimeters per year.")


def test_the_quoting_example_quotes_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = (code for code in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL) if "Quoting(" in code)
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out == "The Moon drifts away by 3.8 centimeters per year. True\n"


@pytest.mark.parametrize("page", ["quoting.md", "reranking.md"])
def test_examples_of_the_documentation_run(page: str) -> None:
    examples = re.findall(r"^```python\n(.*?)```", (ROOT / "docs" / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    assert examples
    for example in examples:
        exec(compile(example, page, "exec"), {})
