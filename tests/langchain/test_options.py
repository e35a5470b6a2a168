"""Options of decoding: one by one and as one value, of an instance and of a call; configured, copied, and refused."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from langchain_core.runnables import ConfigurableField
from langchain_helpers import answer

from grit_integrations import Decoding, GritLM, OptionError, Quoting, Reranking
from grit_integrations.langchain import ChatGrit, GritEmbeddings, GritLLM, GritReranker, GritRetriever

GENERATORS = [ChatGrit, GritLLM]


@pytest.mark.parametrize("adapter", GENERATORS)
def test_standard_options_of_remote_providers_are_accepted(adapter: Any) -> None:
    assert adapter(timeout=60, max_retries=2, api_key="key").max_tokens is None


@pytest.mark.parametrize("adapter", GENERATORS)
def test_both_names_of_an_option_work(adapter: Any, tiny: GritLM) -> None:
    assert adapter(max_new_tokens=3).max_tokens == adapter(max_tokens=3).max_tokens == 3
    assert adapter(stop_sequences="you").stop == adapter(stop=["you"]).stop == ["you"]
    assert answer(adapter(model=tiny), max_new_tokens=3) == answer(adapter(model=tiny, max_tokens=3))


@pytest.mark.parametrize("adapter", GENERATORS)
@pytest.mark.parametrize(
    "options",
    [{"temperature": -1}, {"max_tokens": 0}, {"top_p": 0}, {"top_k": -1}, {"repetition_penalty": 0}, {"stop": [""]}],
)
def test_impossible_values_are_refused_by_instance_and_call(
    adapter: Any, options: dict[str, Any], tiny: GritLM
) -> None:
    (name,) = options
    name = "max_new_tokens" if name == "max_tokens" else name
    with pytest.raises(ValueError, match=f"{name}=.* is not possible"):
        adapter(**options)
    with pytest.raises(OptionError, match=f"{name}=.* is not possible"):
        adapter(model=tiny).invoke("Hello", **options)


@pytest.mark.parametrize("adapter", GENERATORS)
def test_an_unknown_option_of_a_call_is_refused_before_any_work(adapter: Any) -> None:
    model = adapter(model="no-such/model")
    with pytest.raises(OptionError, match=r"'temprature' is unknown. Did you mean 'temperature'\? Options are "):
        model.invoke("Hello", temprature=1)
    with pytest.raises(OptionError, match="'temprature' is unknown"):
        next(model.stream("Hello", temprature=1))


@pytest.mark.parametrize("adapter", GENERATORS)
def test_options_of_a_call_win_over_the_instance(adapter: Any, tiny: GritLM) -> None:
    model = adapter(model=tiny, max_tokens=6, stop=["#"])
    full = answer(model, stop=[])
    assert answer(model) == full.partition("#")[0]
    assert answer(model, stop=[], max_tokens=2) == answer(adapter(model=tiny, max_tokens=2)) != full
    assert answer(model, stop=[], max_tokens=None) == full
    assert answer(model.bind(stop=[], max_tokens=2)) == answer(model, stop=[], max_tokens=2)


def test_sampling_repeats_with_a_seed_and_differs_from_greedy(tiny: GritLM) -> None:
    chat = ChatGrit(model=tiny, max_tokens=6, temperature=2.0, seed=7)
    assert answer(chat) == answer(chat) != answer(chat, temperature=0)
    assert answer(chat, seed=8) != answer(chat)
    assert answer(chat, top_k=1) == answer(chat, temperature=0)


def test_configurable_fields_rebuild_the_model(tiny: GritLM) -> None:
    chat = ChatGrit(model=tiny, max_tokens=6)
    chain = chat.configurable_fields(max_tokens=ConfigurableField(id="length"))
    assert chain.invoke("Hello", {"configurable": {"length": 2}}).text == answer(chat, max_tokens=2)
    assert len(list(chain.stream("Hello", {"configurable": {"length": 3}}))) == 3
    schema = (
        ChatGrit(model=tiny.source).configurable_fields(model=ConfigurableField(id="model")).get_config_jsonschema()
    )
    assert schema["$defs"]["Configurable"]["properties"]["model"]["type"] == "string"


# As one value


@pytest.mark.parametrize("adapter", GENERATORS)
def test_options_are_read_one_by_one_and_as_one_value(adapter: Any) -> None:
    for made in (adapter(temperature=0.5, max_tokens=9), adapter(decoding=Decoding(temperature=0.5, max_new_tokens=9))):
        assert (made.temperature, made.max_tokens) == (0.5, 9)
        assert made.decoding == Decoding(temperature=0.5, max_new_tokens=9)
    assert adapter().decoding == adapter(decoding=None).decoding == Decoding()
    assert adapter().temperature is None, "nothing was asked for"
    assert adapter(decoding={"temperature": 0.5}, max_new_tokens=9).decoding == made.decoding
    quoting = adapter(quote={"method": "spans"})
    assert quoting.quote == quoting.decoding.quoting == Quoting(method="spans")


@pytest.mark.parametrize("adapter", GENERATORS)
def test_what_contradicts_itself_is_refused(adapter: Any, tiny: GritLM) -> None:
    whole = Decoding(temperature=0.5, logprobs=3)
    assert adapter(decoding=whole, temperature=0.5, logprobs=True).decoding == whole
    for single in ({"temperature": 0.7}, {"logprobs": False}, {"top_logprobs": 2}):
        with pytest.raises(OptionError, match="is given twice"):
            adapter(decoding=whole, **single)
        with pytest.raises(OptionError, match="is given twice"):
            adapter(model=tiny).invoke("Hello", decoding=whole, **single)
    with pytest.raises(OptionError, match="max_new_tokens is given twice, as 3 and as 4"):
        adapter(max_tokens=3, max_new_tokens=4)
    with pytest.raises(OptionError, match=r"decoding='greedy' is not possible. It must be a Decoding\(...\)"):
        adapter(decoding="greedy")


@pytest.mark.parametrize("adapter", GENERATORS)
def test_a_calls_value_stands_for_all_options(adapter: Any, tiny: GritLM) -> None:
    model, plain = adapter(model=tiny, max_tokens=3, temperature=2.0, seed=1), adapter(model=tiny)
    assert answer(model, decoding=Decoding(max_new_tokens=5)) == answer(plain, max_tokens=5)
    assert answer(model, decoding=Decoding(), max_tokens=5) == answer(plain, max_tokens=5)
    assert answer(model.bind(decoding=Decoding(max_new_tokens=5))) == answer(plain, max_tokens=5)


@pytest.mark.parametrize("adapter", GENERATORS)
def test_copies_take_options_under_each_name(adapter: Any) -> None:
    model = adapter(temperature=0.5, stop=["x"], logprobs=True)
    assert model.model_copy(update={"max_new_tokens": 3}).decoding == Decoding(
        temperature=0.5, stop=("x",), logprobs=0, max_new_tokens=3
    )
    assert model.model_copy(update={"temperature": None}).temperature is None
    assert model.model_copy(update={"top_logprobs": 2}).decoding.logprobs == 2
    assert model.model_copy(update={"decoding": Decoding(top_k=3)}).decoding == Decoding(top_k=3)
    assert model.model_copy().decoding == model.model_copy(deep=True).decoding == model.decoding
    with pytest.raises(OptionError, match="temperature=-1"):
        model.model_copy(update={"temperature": -1})
    assert pickle.loads(pickle.dumps(model)).decoding == model.decoding
    assert adapter(**model.model_dump()).decoding == model.decoding


def test_a_configured_option_wins_over_the_value_of_the_instance(tiny: GritLM) -> None:
    chat = ChatGrit(model=tiny, decoding=Decoding(max_new_tokens=6, stop=("#",)))
    chain = chat.configurable_fields(max_tokens=ConfigurableField(id="length"), stop=ConfigurableField(id="stop"))
    configured = chain.with_config(configurable={"length": 2, "stop": []})
    assert configured.invoke("Hello").text == answer(chat, max_tokens=2, stop=[])
    properties = chain.get_config_jsonschema()["$defs"]["Configurable"]["properties"]
    assert properties["length"]["description"] == Decoding.descriptions()["max_new_tokens"]


def test_a_rerankers_options_likewise(tiny: GritLM) -> None:
    wanted = Reranking(method="listwise", window=6, step=3)
    made = GritReranker(reranking=wanted, top_n=2)
    assert GritReranker(method="listwise", window=6, step=3).reranking == made.reranking == wanted
    assert (made.method, made.window, GritReranker().window) == ("listwise", 6, 20)
    assert made.model_copy(update={"step": 5}).reranking == Reranking(method="listwise", window=6, step=5)
    assert made.model_copy(update={"reranking": Reranking()}).reranking == Reranking()
    assert pickle.loads(pickle.dumps(made)).reranking == GritReranker(**made.model_dump()).reranking == wanted
    with pytest.raises(OptionError, match="window is given twice, as 7 and within reranking as 6"):
        GritReranker(reranking=wanted, window=7)


# What is refused


@pytest.mark.parametrize(
    ("adapter", "options", "complaint"),
    [
        (ChatGrit, {"temperature": "hot"}, "temperature='hot' is not possible"),
        (ChatGrit, {"temperature": float("nan")}, "temperature=nan is not possible"),
        (ChatGrit, {"max_tokens": 1.5}, "max_new_tokens=1.5 is not possible"),
        (ChatGrit, {"caching": "docs"}, "caching='docs' is unknown"),
        (ChatGrit, {"logprobs": 3}, "logprobs=3 is not possible"),
        (ChatGrit, {"temprature": 1}, "Did you mean 'temperature'"),
        (ChatGrit, {"model": 3}, "model=3 is not possible"),
        (GritLLM, {"decodin": None}, "Did you mean 'decoding'"),
        (GritEmbeddings, {"truncate_dim": "few"}, "truncate_dim='few' is not possible"),
        (GritEmbeddings, {"query_instructon": ""}, "Did you mean 'query_instruction'"),
        (GritReranker, {"top_n": "three"}, "top_n='three' is not possible"),
        (GritReranker, {"cosine": float("nan")}, "cosine=nan"),
        (GritReranker, {"methd": "listwise"}, "Did you mean 'method'"),
        (GritRetriever, {"retreiver": None}, "Did you mean 'retriever'"),
        (GritRetriever, {"prefer_cached": float("nan"), "retriever": None}, "Neither of vectorstore and retriever"),
    ],
)
def test_constructors_complain_in_this_packages_words(adapter: Any, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint):
        adapter(**options)
