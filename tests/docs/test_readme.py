"""The README: short, its example has ten lines, and its one table is what the benchmarks wrote."""

from __future__ import annotations

import re
from statistics import median
from typing import Any

from pages import README, ROOT, blocks, result, table

TEXT = README.read_text(encoding="utf-8")


def test_it_is_short_and_shows_both_commands() -> None:
    assert len(TEXT.splitlines()) < 130
    shell = "".join(block.text for block in blocks(README) if block.language == "sh")
    assert "make demo" in shell and "make test" in shell
    pages = [path for path in (ROOT / "examples" / "corpus").rglob("*.md") if path.name != "ATTRIBUTION.md"]
    assert f"indexes {len(pages)} pages of real text" in shell


def test_the_first_example_has_ten_lines_and_shows_what_it_prints() -> None:
    first = next(block for block in blocks(README) if block.language == "python")
    assert len(first.text.strip().splitlines()) <= 10
    assert first.output is not None


def test_every_row_of_the_one_table_is_measured() -> None:
    assert len(re.findall(r"^\|---", TEXT, flags=re.MULTILINE)) == 1
    rows = table(TEXT, " | measured")
    assert len(rows) <= 8
    assert [row[1:] for row in rows] == [*caching(), reranking(), embedding(), memory(), *quality()]


def test_the_rows_say_on_how_many() -> None:
    first, *_, retrieved, _, quoted = (row[0] for row in table(TEXT, " | measured"))
    assert "document of 4,000 tokens" in first
    assert f"on {result('retrieval')['sets']['squad-v1.1-dev-part']['queries']} questions" in retrieved
    assert f"on {result('grit-mini-answers')['settings']['questions']} questions" in quoted
    found = result("reranking")
    assert f"Rerank {found['passages']} passages of {found['tokens']} tokens" in TEXT
    assert f"Embed {result('embedding')['texts']} paragraphs" in TEXT


def caching() -> list[list[str]]:
    rows = result("caching")["rows"]
    size = {"document": 4000, "question": 32, "new": 16}
    off, hit = (
        next(row for row in rows if row["arm"] == arm and all(row.get(name) == size[name] for name in size))
        for arm in ("off", "prefix, hit on disk")
    )
    first, whole = (off[what]["median"] / hit[what]["median"] for what in ("ttft", "total"))
    return [
        [
            f"{hit['ttft']['median']:.3f} s",
            f"{off['ttft']['median']:.3f} s without caching: {first:.0f} times as long",
        ],
        [
            f"{hit['total']['median']:.2f} s",
            f"{off['total']['median']:.2f} s without caching: {whole:.1f} times as long",
        ],
    ]


def reranking() -> list[str]:
    seconds = result("reranking")["seconds"]
    stored, nothing = (median(seconds[f"passage-first, {arm}"]) for arm in ("blocks in RAM", "nothing stored"))
    return [f"{stored:.2f} s", f"{nothing:.2f} s with nothing stored: {nothing / stored:.1f} times as long"]


def embedding() -> list[str]:
    speeds = result("embedding")["tokens_per_second"]
    ours, theirs = speeds["grit_integrations"], speeds["gritlm encode, batch_size=16"]
    return [
        f"{ours:.0f} tokens/s",
        f"{theirs:.0f} tokens/s, `gritlm` with batches of 16: {ours / theirs:.1f} times slower",
    ]


def memory() -> list[str]:
    added = result("memory")["added_bytes"]
    ours = added["5 adapters of 2 frameworks + Chroma"]
    theirs = added["transformers twice (an embedder and a generator)"]
    less = (
        f"{theirs / 1e6:,.0f} MB, an embedding model and a generator in transformers: {theirs / ours:.1f} times as much"
    )
    return [f"{ours / 1e6:,.0f} MB", less]


def quality() -> list[list[str]]:
    systems = result("retrieval")["sets"]["squad-v1.1-dev-part"]["systems"]
    found = {name: f"{systems[name]['ndcg@10']['value']:.3f}" for name in systems}
    reranked = found["verdicts + 15 x cosine, blocks and vectors stored, top 50"]
    (answers,) = result("grit-mini-answers")["answers"].values()
    wanted = {"documents": "gold", "caching": "off", "method": "spans:1-echo", "precision": "native"}
    quoted: Any = next(arm for arm in answers["arms"] if wanted.items() <= arm.items())
    rule = answers["baselines"]["rule by question type"]["f1"]["value"]
    return [
        [found["embeddings"], f"{found['BM25']}, BM25"],
        [reranked, f"{found['BM25']}, BM25"],
        [f"{100 * quoted['f1']['value']:.1f}", f"{100 * rule:.1f}, a rule by question type"],
    ]


def test_the_model_s_size_is_the_config_s() -> None:
    assert f"has {result('grit-mini-answers')['model']['parameters'] / 1e6:.1f}M parameters" in TEXT
