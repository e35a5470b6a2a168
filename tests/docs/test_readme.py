"""What the README shows runs as it stands, and its figures are those that the benchmarks wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import median
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
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


def test_retrieval_figures_are_the_evaluation_s() -> None:
    found = json.loads((RESULTS / "grit-mini-retrieval.json").read_text())["retrieval"]["squad-v1.1-dev-part"]
    assert f"| retrieval, {found['queries']} questions, {found['passages']:,} passages |" in README
    for label, name in (("grit-mini", "model, instructed"), ("BM25", "BM25"), ("random order", "random order")):
        system = found["systems"][name]
        ten, interval = system["recall@10"], ""
        if ten["low"] < ten["high"]:  # the random order is exact
            interval = f" ({ten['low']:.3f} to {ten['high']:.3f})"
        row = f"{system['recall@1']['value']:.3f} | {ten['value']:.3f}{interval} | {system['ndcg@10']['value']:.3f}"
        assert f"| {label} | {row} |" in README


def test_answer_figures_are_the_evaluation_s() -> None:
    result = json.loads((RESULTS / "grit-mini-answers.json").read_text())
    assert f"| answers, {result['settings']['questions']} questions: F1 |" in README
    (found,) = result["answers"].values()
    arms = {(arm["documents"], arm["caching"], arm["method"], arm["precision"]): arm for arm in found["arms"]}
    for label, method in (("quoted (best sentence, best span)", "spans:1-echo"), ("free text", "free")):
        gold, top_1, top_3 = (arms[given, "off", method, "native"]["f1"] for given in ("gold", "top 1", "top 3"))
        shown = f"{points(gold)} | {100 * top_1['value']:.1f} | {100 * top_3['value']:.1f}"
        assert f"| {label}, caching `off` | {shown} |" in README
    for label, caching, precision in (
        ("`doc`, against `off`", "doc", "native"),
        ("`doc` in int8, against `doc`", "doc", "int8"),
        ("`query`, against `off`", "query", "native"),
    ):
        (row,) = re.findall(rf"^\| {re.escape(label)} \| (.*) \|$", README, re.MULTILINE)
        for given, cell in zip(("gold", "top 1", "top 3"), row.split(" | "), strict=True):
            gained = points(arms[given, caching, "spans:1-echo", precision]["f1 difference"], "+")
            assert cell in (gained, gained.split(" ", 1)[0])
    for given in ("gold", "top 1", "top 3"):
        assert arms[given, "prefix", "spans:1-echo", "native"]["other answers"] == 0
    for name in ("rule by question type", "sentence with most shared words"):
        assert re.search(
            rf"^\| {name}.*\| {re.escape(points(found['baselines'][name]['f1']))} \|", README, re.MULTILINE
        )


def points(figure: dict[str, float], sign: str = "") -> str:
    """Return a share of 1 with its interval in points of 100, as the tables show it."""
    value, low, high = (f"{100 * figure[key]:{sign}.1f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


@pytest.mark.parametrize(
    ("page", "arms"),
    [("README.md", 5), ("docs/reranking.md", 11), ("grit_integrations/bundled/grit-mini/README.md", 11)],
)
def test_quality_figures_of_reranking_are_the_benchmark_s(page: str, arms: int) -> None:
    sets = json.loads((RESULTS / "retrieval.json").read_text())["sets"]
    table = (ROOT / page).read_text(encoding="utf-8").split("| nDCG@10, gain over the embeddings |")[1].split("\n\n")[0]
    rows = [row.strip("| ").split(" | ") for row in table.splitlines()[2:]]
    assert len(rows) == arms
    for name, *cells, milliseconds in rows:
        found = [sets[each]["systems"].get(name) for each in ("squad-v1.1-dev-part", "selqa", "handwritten")]
        assert cells == [shown(name, system) for system in found]
        first = next(system for system in found if system)
        assert milliseconds == f"{1000 * first['seconds']:,.0f}"


def shown(name: str, system: dict[str, Any] | None) -> str:
    """Return a cell of the table: nDCG@10, and what it gains over the embeddings."""
    if system is None:
        return ""
    ndcg, gain = f"{system['ndcg@10']['value']:.3f}", system["gain"]
    if name == "embeddings":
        return ndcg
    return f"{ndcg}, {gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})"


def test_training_s_share_is_the_benchmark_s() -> None:
    result = json.loads((RESULTS / "training.json").read_text())
    bare, ours = (result["tokens_per_second"][arm] for arm in ("bare forward-backward", "grit train"))
    rounds = sorted(after / before for before, after in zip(bare, ours, strict=True))
    assert f"reaches {result['share']:.0%}".replace("%", " %") in README
    assert f"{100 * rounds[0]:.0f} to {100 * rounds[-1]:.0f} % in three rounds" in README


def test_what_rerankers_fail_is_the_benchmark_s() -> None:
    rerankers = json.loads((RESULTS / "reranker_conformance.json").read_text())["rerankers"]
    failed = {
        name: [case["outcome"] for case in found["cases"].values()].count("failed")
        for name, found in rerankers.items()
        if "cases" in found
    }
    assert {number for name, number in failed.items() if name.startswith("Grit")} == {0}
    others = [
        failed[f"{room} {name}"]
        for room, name in (
            ("langchain-classic", "CrossEncoderReranker"),
            ("LlamaIndex", "RankGPTRerank"),
            ("LlamaIndex", "LLMRerank"),
        )
    ]
    words = "`CrossEncoderReranker` fails {}, LlamaIndex's `RankGPTRerank` {} and its `LLMRerank`.*choices, {}\\."
    assert re.search(words.format(*others), README)


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
