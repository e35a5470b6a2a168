"""Options as values: given one by one, as one value, or both; described where they are declared; wrong ones named."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_type_hints

import pytest

from grit_integrations import Decoding, OptionError, Quoting, Reranking
from grit_integrations.option_sets import Options
from grit_integrations.options import RerankingOptions, check_prefer_cached, check_top_n

KINDS = [Decoding, Reranking, Quoting]


def test_options_come_one_by_one_as_one_value_or_both() -> None:
    wanted = Decoding(temperature=0.5, max_new_tokens=8)
    assert Decoding.of(wanted, {}) == Decoding.of(None, {"temperature": 0.5, "max_tokens": 8}) == wanted
    assert Decoding.of(Decoding(temperature=0.5), {"max_new_tokens": 8, "top_p": None}) == wanted
    assert Decoding.of({"temperature": 0.5}, {"max_tokens": 8}) == wanted
    assert Decoding.of(wanted, {"temperature": 0.5}) == wanted
    assert Decoding.of(None, {}) == Decoding()


@pytest.mark.parametrize(
    ("value", "overrides", "complaint"),
    [
        (
            Decoding(temperature=0.5),
            {"temperature": 0.7},
            "temperature is given twice, as 0.7 and within decoding as 0.5",
        ),
        (Decoding(max_new_tokens=8), {"max_tokens": 9}, "max_new_tokens is given twice"),
        (None, {"max_tokens": 9, "max_new_tokens": 8}, "max_new_tokens is given twice, as 9 and as 8"),
        (None, {"temprature": 0.7}, "Did you mean 'temperature'"),
        ({"temprature": 0.7}, {}, "Did you mean 'temperature'"),
        (0.7, {}, r"decoding=0.7 is not possible. It must be a Decoding\(...\)"),
        (Reranking(), {}, "decoding=Reranking"),
    ],
)
def test_contradictions_and_unknown_names_are_refused(value: Any, overrides: dict[str, Any], complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint):
        Decoding.of(value, overrides)


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_is_described_where_it_is_declared(kind: type[Options]) -> None:
    said = kind.descriptions()
    assert list(said) == [option.name for option in fields(kind)]
    assert all(len(text) > 10 for text in said.values())


def test_keyword_arguments_of_reranking_are_its_options() -> None:
    assert get_type_hints(RerankingOptions) == {
        name: hint for name, hint in get_type_hints(Reranking).items() if name != "aliases"
    }


@pytest.mark.parametrize(
    ("kind", "name", "values"),
    [
        (Decoding, "temperature", ["hot", -1, float("nan"), True]),
        (Decoding, "max_new_tokens", [0, 1.5, "8", True]),
        (Decoding, "stop", [5, [""], [b"x"]]),
        (Decoding, "quote", ["yes", 3]),
        (Reranking, "cosine", ["near", -1, float("nan")]),
        (Reranking, "passage_tokens", [0, 2.5, "many"]),
        (Reranking, "window", [1, "20", 2.5]),
        (Reranking, "step", [0, 20, "10"]),
        (Reranking, "method", ["pairwise", 3, ["pointwise"]]),
        (Reranking, "instruction", [3, ["Find"]]),
    ],
)
def test_impossible_values_are_named(kind: type[Options], name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(OptionError, match=f"{name}="):
            kind(**{name: value})


def test_a_quotings_plain_data_is_read_back() -> None:
    assert Decoding(quote={"method": "spans", "longest": 5}).quote == Quoting(method="spans", longest=5)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="Did you mean 'longest'"):
        Decoding(quote={"longst": 5})  # type: ignore[arg-type]


def test_counts_and_margins_of_retrieval() -> None:
    assert [check_top_n(value) for value in (None, 1, 20)] == [None, 1, 20]
    assert [check_prefer_cached(value) for value in (0, 0.5)] == [0.0, 0.5]
    for wrong in (0, -1, 1.5, "3", True):
        with pytest.raises(OptionError, match="top_n="):
            check_top_n(wrong)
    for wrong in (-1, float("nan"), float("inf"), "much", None, True):
        with pytest.raises(OptionError, match="prefer_cached="):
            check_prefer_cached(wrong)
