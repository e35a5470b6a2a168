"""The tables of `docs/benchmarks.md`, and those of pages that repeat a benchmark, are what the benchmarks wrote."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from pages import BENCHMARKS, CARD, DOCS, prose, result, table

PAGE = BENCHMARKS.read_text(encoding="utf-8")
PROSE = prose(BENCHMARKS)


def caching_rows(**sizes: Any) -> dict[str, dict[str, Any]]:
    """Return each arm's figures for one size."""
    rows = result("caching")["rows"]
    return {row["arm"]: row for row in rows if all(row.get(name) == value for name, value in sizes.items())}


def test_caching_figures_are_the_benchmark_s() -> None:
    rows = table(PAGE, "arm | first token, 500")
    assert len(rows) > 10
    for arm, *shown in rows:
        found = [caching_rows(question=32, new=16, document=document)[arm] for document in (500, 4000)]
        figures = [f"{row[what]['median']:.{digits}f}" for row in found for what, digits in (("ttft", 3), ("total", 2))]
        assert shown == figures, arm


def test_what_is_said_of_the_caching_figures_is_in_them() -> None:
    short, long = (caching_rows(question=32, new=16, document=document) for document in (100, 4000))
    off, hit, hit_short = long["off"], long["prefix, hit on disk"], short["prefix, hit on disk"]
    faster = [off[what]["median"] / hit[what]["median"] for what in ("ttft", "total")]
    assert f"first token {faster[0]:.0f} times faster" in PROSE and f"answer {faster[1]:.1f} times faster" in PROSE
    limit = caching_rows(question=32, document=4000)["limit"]
    least = limit["compute"]["median"] + limit["read"]["median"]
    assert f"The first token takes {hit['ttft']['median'] / least:.2f} times the limit" in PROSE
    assert f"template ({limit['suffix']} tokens) takes {limit['compute']['median']:.3f} s even when" in PROSE
    costs = [(row["total"]["median"] - row["ttft"]["median"]) / (row["new"] - 1) for row in (hit, hit_short)]
    assert f"costs {costs[0] / costs[1]:.2f} times what it costs behind 100" in PROSE
    sizes = [long[arm]["bytes"] / 1e6 for arm in ("doc, hit on disk", "doc int8, hit on disk")]
    assert f"takes {sizes[0]:.0f} MB, in int8 {sizes[1]:.0f} MB" in PROSE
    (embedding,) = (
        row
        for row in result("caching")["rows"]
        if (row["arm"], row.get("mode"), row.get("document")) == ("index", "off", 4000)
    )
    assert f"embeds it ({embedding['seconds']['median']:.1f} s)" in PROSE


def test_embedding_figures_are_the_benchmark_s() -> None:
    found = result("embedding")
    speeds = found["tokens_per_second"]
    rows = [
        [
            name,
            f"{speeds[name]:,.0f}",
            f"{found['speedup'].get(name, 1):.2f}",
            f"{found['largest_difference'][name]:.1e}",
        ]
        for name in speeds
    ]
    limit = ["limit: linear layers alone", f"{found['limit_tokens_per_second']:,.0f}", "", ""]
    shown = table(PAGE, "arm | tokens/s")
    assert sorted(shown) == sorted([*rows, limit])
    assert f"{found['texts']} paragraphs of the example corpus ({found['tokens']:,} tokens)" in PROSE
    assert f"median of {found['rounds']} rounds" in PROSE
    assert found["model"].removeprefix("random Mistral, ").removesuffix(", float32") in PROSE


def test_memory_figures_are_the_benchmark_s() -> None:
    found = result("memory")
    added = found["added_bytes"]
    one = added["one GritLM, no framework"]
    rows = [[name, f"{size / 1e6:,.0f} MB", f"{size / one:.2f}"] for name, size in added.items()]
    assert table(PAGE, "arm | memory added") == rows
    assert f"below the {found['parameter_bytes'] / 1e6:,.0f} MB" in PROSE


def test_reranking_figures_are_the_benchmark_s() -> None:
    found = result("reranking")
    middle = {name: median(values) for name, values in found["seconds"].items()}
    slowest = middle["passage-first, nothing stored"]
    rows = [cells[1:] for cells in table(PAGE, "arm | seconds")]
    assert rows == [[f"{value:.3f}", f"{slowest / value:.1f}"] for value in middle.values()]
    limit = found["limit"]
    stored, block = (limit[f"{order}, blocks in RAM"] for order in ("passage-first", "passage-block"))
    assert f"is {stored:.3f} s (passage first) and {block:.3f} s (`doc`)" in PROSE
    assert f"{found['passages']} passages of {found['tokens']} tokens" in PROSE
    assert found["hit_as_miss"] is True


def test_the_page_of_reranking_repeats_the_benchmark() -> None:
    found = result("reranking")
    middle = {name: median(values) for name, values in found["seconds"].items()}
    slowest = middle["passage-first, nothing stored"]
    page = (DOCS / "reranking.md").read_text(encoding="utf-8")
    for name, seconds, spread, ratio, computed, limit in table(page, "arm | seconds"):
        values = found["seconds"][name]
        assert [seconds, spread] == [f"{middle[name]:.3f}", f"{min(values):.3f}..{max(values):.3f}"]
        assert [ratio, computed] == [f"{slowest / middle[name]:.1f}", f"{found['computed'][name]:,}"]
        assert limit == f"{found['limit'][name]:.3f}"
    naive = middle["naive: transformers, one padded batch"] / middle["query-first, the query read once"]
    assert f"{naive:.2f} times as fast as the naive batch" in page
    recall = [
        f"{result('retrieval')['sets']['squad-v1.1-dev-part']['systems'][name]['recall@1']['value']:.3f}".lstrip("0")
        for name in ("embeddings", "verdicts, top 10")
    ]
    assert f"(recall@1 on SQuAD {recall[0]} to {recall[1]})" in page


def test_retrieval_figures_are_the_evaluation_s() -> None:
    found = result("grit-mini-retrieval")["retrieval"]["squad-v1.1-dev-part"]
    assert f"| retrieval, {found['queries']} questions, {found['passages']:,} passages |" in PROSE
    for label, name in (("grit-mini", "model, instructed"), ("BM25", "BM25"), ("random order", "random order")):
        system = found["systems"][name]
        ten, interval = system["recall@10"], ""
        if ten["low"] < ten["high"]:  # the random order is exact
            interval = f" ({ten['low']:.3f} to {ten['high']:.3f})"
        row = f"{system['recall@1']['value']:.3f} | {ten['value']:.3f}{interval} | {system['ndcg@10']['value']:.3f}"
        assert f"| {label} | {row} |" in PROSE


def test_answer_figures_are_the_evaluation_s() -> None:
    answers = result("grit-mini-answers")
    assert f"| answers, {answers['settings']['questions']} questions: F1 |" in PROSE
    (found,) = answers["answers"].values()
    arms = {(arm["documents"], arm["caching"], arm["method"], arm["precision"]): arm for arm in found["arms"]}
    for label, method in (("quoted (best sentence, best span)", "spans:1-echo"), ("free text", "free")):
        gold, top_1, top_3 = (arms[given, "off", method, "native"]["f1"] for given in ("gold", "top 1", "top 3"))
        shown = f"{points(gold)} | {100 * top_1['value']:.1f} | {100 * top_3['value']:.1f}"
        assert f"| {label}, caching `off` | {shown} |" in PROSE
    for label, caching, precision in (
        ("`doc`, against `off`", "doc", "native"),
        ("`doc` in int8, against `doc`", "doc", "int8"),
        ("`query`, against `off`", "query", "native"),
    ):
        (row,) = re.findall(rf"^\| {re.escape(label)} \| (.*) \|$", PAGE, re.MULTILINE)
        for given, cell in zip(("gold", "top 1", "top 3"), row.split(" | "), strict=True):
            gained = points(arms[given, caching, "spans:1-echo", precision]["f1 difference"], "+")
            assert cell in (gained, gained.split(" ", 1)[0])
    for given in ("gold", "top 1", "top 3"):
        assert arms[given, "prefix", "spans:1-echo", "native"]["other answers"] == 0
    for name in ("rule by question type", "sentence with most shared words"):
        assert re.search(rf"^\| {name}.*\| {re.escape(points(found['baselines'][name]['f1']))} \|", PAGE, re.MULTILINE)


def points(figure: dict[str, float], sign: str = "") -> str:
    """Return a share of 1 with its interval in points of 100, as the tables show it."""
    value, low, high = (f"{100 * figure[key]:{sign}.1f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


@pytest.mark.parametrize(("page", "arms"), [(BENCHMARKS, 5), (DOCS / "reranking.md", 11), (CARD, 11)])
def test_quality_figures_of_reranking_are_the_benchmark_s(page: Path, arms: int) -> None:
    sets = result("retrieval")["sets"]
    rows = table(page.read_text(encoding="utf-8"), "nDCG@10, gain over the embeddings")
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
    found = result("training")
    bare, ours = (found["tokens_per_second"][arm] for arm in ("bare forward-backward", "grit train"))
    rounds = sorted(after / before for before, after in zip(bare, ours, strict=True))
    assert f"reaches {found['share']:.0%}".replace("%", " %") in PROSE
    assert f"{100 * rounds[0]:.0f} to {100 * rounds[-1]:.0f} % in three rounds" in PROSE
    assert f"({found['model'].split(',')[0]}, {found['dtype'].removeprefix('torch.')};" in PROSE


def test_what_rerankers_fail_is_the_benchmark_s() -> None:
    rerankers = result("reranker_conformance")["rerankers"]
    outcomes = {
        name: [case["outcome"] for case in found["cases"].values()]
        for name, found in rerankers.items()
        if "cases" in found
    }
    failed = {name: found.count("failed") for name, found in outcomes.items()}
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
    assert re.search(words.format(*others), PROSE)
    assert f"of its {max(map(len, outcomes.values()))} cases" in PROSE


def test_how_reading_grows_is_the_benchmark_s() -> None:
    found = result("ingest")
    assert found["growth"] == [1, 2, 4, 8]
    first, last = (f"{found['characters'] * factor:,}" for factor in (1, 8))
    assert f"files of {first} to {last} characters" in PROSE
    largest = found["largest_ratio"]["ratio"]
    assert largest < 12
    assert f"the {len(found['seconds']) - 1} shapes take at most {largest:.1f} times as long" in PROSE
    prose, slowest = found["seconds"]["prose"][-1], found["slowest"]["seconds"]
    assert f"One thread of an {found['environment']['cpu']} reads" in PROSE
    assert f"{last} characters in {1000 * prose:.0f} ms as prose and in at most {1000 * slowest:.0f} ms" in PROSE


def test_the_machine_is_the_benchmarks() -> None:
    names = ("caching", "embedding", "memory", "reranking", "training", "reranker_conformance", "ingest")
    (environment,) = {tuple(sorted(result(name)["environment"].items())) for name in names}
    versions = dict(environment)
    assert versions["cpu"] == "AMD EPYC" and versions["threads"] == 2
    assert f"Python {versions['python']}" in PROSE
    for name in ("torch", "transformers", "gritlm", "langchain-core", "llama-index-core", "chromadb"):
        assert f"{name} {versions[name]}" in PROSE
    other = result("retrieval")["environment"]  # measured apart: it needs the data that grit-mini was held out from
    assert f"threads of an {other['cpu']}, measured with langchain-core {other['langchain-core']}." in PROSE
    apart = ("cpu", "langchain-core")
    assert other == {**versions, **{name: other[name] for name in apart}}
