"""The tables of grit-mini's model card, row by row, are what `grit evaluate` wrote."""

from __future__ import annotations

import math
from typing import Any

from pages import CARD, prose, result, table

TEXT = CARD.read_text(encoding="utf-8")
ANSWERS, RETRIEVAL = result("grit-mini-answers"), result("grit-mini-retrieval")
(ON_SQUAD,) = ANSWERS["answers"].values()


def spread(figure: dict[str, float], scale: int = 1, digits: int = 3, sign: str = "") -> str:
    value, low, high = (f"{scale * figure[key]:{sign}.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def points(figure: dict[str, float], sign: str = "") -> str:
    return spread(figure, 100, 1, sign)


def test_retrieval() -> None:
    rows = table(TEXT, "set (queries) | passages | system")
    assert len(rows) == sum(len(found["systems"]) for found in RETRIEVAL["retrieval"].values())
    for label, passages, system, *shown in rows:
        found = RETRIEVAL["retrieval"][label.split(" ")[0]]
        assert label.endswith(f"({found['queries']})") and passages == f"{found['passages']:,}"
        figures = found["systems"][system]
        plain = {name: f"{figures[name]['value']:.3f}" for name in ("recall@1", "recall@5", "mrr@10")}
        against = found["recall@10 against BM25"].get(system)
        assert shown == [
            plain["recall@1"],
            plain["recall@5"],
            spread(figures["recall@10"]),
            spread(figures["ndcg@10"]),
            plain["mrr@10"],
            "" if against is None else spread(against),
        ]


def test_held_out_text() -> None:
    for label, tokens, nats, perplexity in table(TEXT, "text (rows)"):
        found = RETRIEVAL["perplexity"][label.split(" ")[0]]
        assert [label.split(" ")[1], tokens] == [f"({found['rows']})", f"{found['tokens']:,}"]
        assert nats == spread(found["nats per token"])
        assert perplexity == f"{math.exp(found['nats per token']['value']):.1f}"


def test_answers_without_a_model() -> None:
    rows = {name: shown for name, *shown in table(TEXT, "baseline | EM")}
    assert rows == {
        name: [points(found[key]) for key in ("em", "f1", "contains")] for name, found in ON_SQUAD["baselines"].items()
    }


def test_answers() -> None:
    found = {arm_of(arm): arm for arm in ON_SQUAD["arms"]}
    rows = table(TEXT, "documents | caching | method")
    assert len(rows) == len(found)
    for documents, caching, method, *shown in rows:
        arm = found[documents, caching, method]
        gained, others = "", ""
        if "f1 difference" in arm:
            against = "native" if arm["precision"] == "int8" else arm["against"]
            gained, others = f"{points(arm['f1 difference'], '+')} on {against}", str(arm["other answers"])
        reused = f"{arm['prompt tokens read'] / arm['prompt tokens']:.0%}".replace("%", " %")
        assert shown == [str(arm["questions"]), points(arm["em"]), points(arm["f1"]), gained, others, reused]


def arm_of(arm: dict[str, Any]) -> tuple[str, str, str]:
    caching = f"{arm['caching']} int8" if arm["precision"] == "int8" else arm["caching"]
    return arm["documents"], caching, arm["method"]


def test_refusal() -> None:
    found = ANSWERS["refusal"]
    assert table(TEXT, "questions | figure") == [
        *(
            [f"{kind} ({found[f'{kind} questions']})", "refused, %", points(found[f"refused, {kind}"])]
            for kind in ("unanswerable", "answerable")
        ),
        *(["one of each", f"AUC of the quote's score, {name}", spread(auc)] for name, auc in found["auc"].items()),
    ]


def test_triples() -> None:
    assert table(TEXT, "anchor embedded as") == [
        [role, str(found["triples"]), spread(found["similar nearer"]), f"{found['mean margin']:.3f}"]
        for role, found in ANSWERS["triples"].items()
    ]


def test_what_the_card_says_it_can_do_is_in_the_tables() -> None:
    said = prose(CARD).replace("+.", "+0.")
    sets = result("retrieval")["sets"]
    cosine = "verdicts + 15 x cosine, blocks and vectors stored"
    squad, selqa = (sets[name]["systems"] for name in ("squad-v1.1-dev-part", "selqa"))
    gains = [spread(systems["verdicts, top 10"]["gain"], sign="+") for systems in (squad, selqa)]
    assert f"nDCG@10 {gains[0]} on SQuAD, {gains[1]} on SelQA" in said
    for top, words in ((10, "added"), (50, "the first 50")):
        first, second = (f"{systems[f'{cosine}, top {top}']['gain']['value']:+.3f}" for systems in (squad, selqa))
        assert f"{words} {first} and {second}" in said
    found = {arm_of(arm): 100 * arm["f1"]["value"] for arm in ON_SQUAD["arms"]}
    rule, sentence = (
        100 * ON_SQUAD["baselines"][name]["f1"]["value"]
        for name in ("rule by question type", "sentence with most shared words")
    )
    assert f"F1 {found['gold', 'off', 'spans:1-echo']:.0f} on human questions" in said
    assert f"rule by question type ({rule:.0f}), far above a whole sentence ({sentence:.0f})" in said
    assert f"Without the choice of a sentence it is at {found['gold', 'off', 'spans']:.0f}." in said
    assert f"F1 {found['gold', 'off', 'free']:.0f} with the gold passage" in said
    assert f"(AUC {ANSWERS['refusal']['auc']['spans:1-echo']['value']:.2f})" in said
