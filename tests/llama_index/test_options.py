"""Options of decoding and reranking: one by one and as one value, of a component and of a call; copied and refused."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from llama_index_helpers import Fixed

from grit_integrations import Decoding, GritLM, OptionError, Quoting, Reranking
from grit_integrations.llama_index import GritLLM, GritRerank, GritRetriever

Prompts = list[tuple[list[int], Decoding]]


def test_options_are_read_one_by_one_and_as_one_value() -> None:
    wanted = Decoding(temperature=0.5, max_new_tokens=9)
    for options in (
        {"temperature": 0.5, "max_new_tokens": 9},
        {"temperature": 0.5, "max_tokens": 9},
        {"decoding": wanted},
        {"decoding": {"temperature": 0.5}, "max_tokens": 9},
    ):
        made = GritLLM("grit-mini", **options)
        assert (made.temperature, made.max_new_tokens, made.decoding) == (0.5, 9, wanted)
    assert GritLLM().decoding == Decoding()
    quoting = GritLLM(quote={"method": "spans"})
    assert quoting.quote == quoting.decoding.quoting == Quoting(method="spans")


def test_what_contradicts_itself_is_refused(tiny: GritLM, prompts: Prompts) -> None:
    whole = Decoding(temperature=0.5)
    assert GritLLM(decoding=whole, temperature=0.5).decoding == whole
    with pytest.raises(OptionError, match=r"temperature is given twice, as 0\.7 and within decoding as 0\.5"):
        GritLLM(decoding=whole, temperature=0.7)
    with pytest.raises(OptionError, match="temperature is given twice"):
        GritLLM(tiny).complete("Hello", decoding=whole, temperature=0.7)
    with pytest.raises(OptionError, match="max_new_tokens is given twice, as 3 and as 4"):
        GritLLM(max_new_tokens=3, max_tokens=4)
    with pytest.raises(OptionError, match="decoding='greedy' is not possible"):
        GritLLM(decoding="greedy")
    assert prompts == []


def test_a_calls_value_stands_for_all_options(tiny: GritLM, prompts: Prompts) -> None:
    llm = GritLLM(tiny, max_new_tokens=3, temperature=2.0, seed=1)
    llm.complete("Hello", decoding=Decoding(max_new_tokens=2))
    llm.complete("Hello", decoding=Decoding(), max_tokens=2)
    assert [decoding for _, decoding in prompts] == [Decoding(max_new_tokens=2)] * 2


def test_copies_and_written_components_keep_options() -> None:
    llm = GritLLM(temperature=0.5, stop=["x"], logprobs=1)
    wanted = Decoding(temperature=0.5, stop=("x",), logprobs=1)
    assert pickle.loads(pickle.dumps(llm)).decoding == llm.model_copy().decoding == llm.decoding == wanted
    assert GritLLM.from_json(llm.to_json()).decoding == wanted
    assert GritLLM.from_dict(llm.to_dict(), temperature=0.7).decoding == wanted.with_options(temperature=0.7)
    assert GritLLM.from_dict(llm.to_dict(), decoding=Decoding(top_k=3)).decoding == Decoding(top_k=3)
    assert llm.model_copy(update={"max_tokens": 3}).decoding == wanted.with_options(max_new_tokens=3)
    assert llm.model_copy(update={"decoding": Decoding(top_k=3)}).decoding == Decoding(top_k=3)
    with pytest.raises(OptionError, match="temperature=-1"):
        llm.model_copy(update={"temperature": -1})
    payload = llm.to_payload()
    assert (payload["temperature"], payload["stop"], payload["logprobs"]) == (0.5, ("x",), 1)


def test_a_rerankers_options_likewise(tiny: GritLM) -> None:
    wanted = Reranking(method="listwise", window=6, step=3)
    made = GritRerank(tiny, reranking=wanted, top_n=2)
    assert GritRerank(tiny, method="listwise", window=6, step=3).reranking == made.reranking == wanted
    assert (made.method, made.window, GritRerank(tiny).window) == ("listwise", 6, 20)
    assert made.model_copy(update={"step": 5}).reranking == Reranking(method="listwise", window=6, step=5)
    assert GritRerank.from_dict(made.to_dict()).reranking == pickle.loads(pickle.dumps(made)).reranking == wanted
    with pytest.raises(OptionError, match="window is given twice, as 7 and within reranking as 6"):
        GritRerank(tiny, reranking=wanted, window=7)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"temperature": "hot"}, "temperature='hot' is not possible"),
        ({"temperature": float("nan")}, "temperature=nan is not possible"),
        ({"max_tokens": 1.5}, "max_new_tokens=1.5 is not possible"),
        ({"caching": "docs"}, "caching='docs' is unknown"),
        ({"system_prompt": 3}, "system_prompt=3 is not possible"),
        ({"decodin": None}, "Did you mean 'decoding'"),
        ({"temprature": 1}, "Did you mean 'temperature'"),
    ],
)
def test_constructors_complain_by_name(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint):
        GritLLM(**options)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"top_n": "three"}, "top_n='three' is not possible"),
        ({"cosine": float("nan")}, "cosine=nan"),
        ({"methd": "listwise"}, "Did you mean 'method'"),
    ],
)
def test_a_reranker_complains_by_name(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint):
        GritRerank(**options)


def test_a_retriever_complains_by_name(tiny: GritLM) -> None:
    with pytest.raises(OptionError, match="Did you mean 'prefer_cached'"):
        GritRetriever(Fixed([]), tiny, prefer_cache=0.1)
