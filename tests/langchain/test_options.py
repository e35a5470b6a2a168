"""Options: from the environment, of an instance, of a call; what keys cached answers; what costs nothing."""

from __future__ import annotations

import pickle
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from checkpoints import write_checkpoint
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.runnables import ConfigurableField

from grit_integrations import GritLM, MissingExtraError, ModelLoadError, OptionError, __version__
from grit_integrations.langchain import ChatGrit, GritEmbeddings, GritLLM

ADAPTERS = [ChatGrit, GritLLM, GritEmbeddings]
GENERATORS = [ChatGrit, GritLLM]


def answer(adapter: Any, /, **options: Any) -> str:
    result = adapter.invoke("Hello", **options)
    return result if isinstance(result, str) else result.text


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_constructing_costs_nothing_and_the_first_use_tells_what_is_wrong(adapter: Any) -> None:
    model = adapter(model="no-such/model", local_files_only=True)
    assert not model.grit.is_loaded
    use = model.embed_query if adapter is GritEmbeddings else model.invoke
    with pytest.raises(ModelLoadError, match="no-such/model"):
        use("Hello")


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_environment_names_model_and_device(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIT_MODEL", "")
    assert adapter().model == "grit-mini"
    monkeypatch.setenv("GRIT_MODEL", "some/model")
    monkeypatch.setenv("GRIT_DEVICE", "cpu")
    model = adapter()
    assert (model.model, model.device, model.grit.source) == ("some/model", "cpu", "some/model")


def test_adapters_share_one_set_of_weights(tiny: GritLM, tiny_path: Path) -> None:
    by_object = [adapter(model=tiny) for adapter in ADAPTERS]
    by_name = [adapter(model=tiny_path) for adapter in ADAPTERS]
    assert all(model.grit is tiny for model in by_object)
    pointers = {
        tuple(parameter.data_ptr() for parameter in model.grit.lm.parameters()) for model in [*by_object, *by_name]
    }
    assert len(pointers) == 1


def test_a_changed_model_field_is_honoured(tiny: GritLM, other: GritLM) -> None:
    chat = ChatGrit(model=tiny.source, max_tokens=4)
    text = answer(chat)
    copy = chat.model_copy(update={"model": other.source})
    chat.model = other
    assert answer(copy) == answer(chat) != text


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_load_options_beside_a_model_object_are_refused(adapter: Any, tiny: GritLM) -> None:
    with pytest.raises(ValueError, match="dtype cannot change a model that already exists"):
        adapter(model=tiny, dtype="bfloat16")


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_misspelt_option_is_refused_at_once(adapter: Any) -> None:
    with pytest.raises(ValueError, match="devize"):
        adapter(devize="cpu")


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


def test_a_model_named_for_one_call_answers_it_and_is_kept(tiny: GritLM, other: GritLM) -> None:
    chat = ChatGrit(model=tiny, max_tokens=4)
    expected = answer(ChatGrit(model=other, max_tokens=4))
    for override in (other, other.source, Path(other.source)):
        result = chat.invoke("Hello", model=override)
        assert (result.text, result.response_metadata["model_name"]) == (expected, other.source)
    assert chat._find(other.source) is chat._find(other.source)
    assert chat._find(tiny.source) is tiny
    with pytest.raises(OptionError, match="model=3 is not possible"):
        chat.invoke("Hello", model=3)


@pytest.mark.parametrize("adapter", GENERATORS)
def test_tracing_parameters_name_the_model_that_answers(adapter: Any, tiny: GritLM, other: GritLM) -> None:
    model = adapter(model=tiny, temperature=0.5, max_tokens=9, stop=["x"])
    params = model._get_ls_params()
    assert params["ls_provider"] == "grit"
    assert params["ls_model_name"] == tiny.source
    assert (params["ls_temperature"], params["ls_max_tokens"], params["ls_stop"]) == (0.5, 9, ["x"])
    params = model._get_ls_params(stop=["y"], model=other, temperature=0.1, max_new_tokens=3)
    assert params["ls_model_name"] == other.source
    assert (params["ls_temperature"], params["ls_max_tokens"], params["ls_stop"]) == (0.1, 3, ["y"])


def test_versions_are_recorded_for_traces() -> None:
    for adapter in GENERATORS:
        versions = adapter(model="some/model").metadata["lc_versions"]
        assert versions["grit_integrations"] == __version__
        assert "langchain-core" in versions


def test_cache_keys_differ_with_everything_that_changes_answers(tiny: GritLM, other: GritLM) -> None:
    def key(model: GritLM | str = tiny, /, call: dict[str, Any] | None = None, **options: Any) -> str:
        return ChatGrit(model=model, **options)._get_llm_string(**(call or {}))

    changes: list[dict[str, Any]] = [
        {},
        {"temperature": 1},
        {"temperature": 1, "seed": 1},
        {"max_tokens": 5},
        {"top_p": 0.5},
        {"top_k": 3},
        {"repetition_penalty": 1.1},
        {"stop": ["x"]},
        {"logprobs": True},
        {"logprobs": True, "top_logprobs": 2},
    ]
    keys = [key(**change) for change in changes] + [key(other), key(tiny.source, dtype="bfloat16")]
    assert len(set(keys)) == len(keys)
    # Whether the instance or the call says it, and whether the model is loaded, makes no difference.
    assert [key(call=change) for change in changes] == keys[: len(changes)]
    assert key(call={"model": other}) == key(call={"model": other.source}) == key(other) == key(other.source)


def test_a_cached_answer_is_not_served_for_weights_written_anew(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "model", seed=1)
    before = ChatGrit(model=path)._get_llm_string()
    assert before == ChatGrit(model=path)._get_llm_string()
    write_checkpoint(path, seed=2)
    assert before != ChatGrit(model=path)._get_llm_string()


@pytest.mark.parametrize("adapter", GENERATORS)
async def test_the_answer_cache_serves_equal_requests_only(adapter: Any, tiny: GritLM, other: GritLM) -> None:
    cache = InMemoryCache()
    model = adapter(model=tiny, max_tokens=4, cache=cache)
    texts = {answer(model), answer(model, max_tokens=2), answer(model, model=other), answer(model, stop=["ji"])}
    assert len(texts) == len(cache._cache) == 4
    result = await model.ainvoke("Hello", max_tokens=2)
    assert (result if isinstance(result, str) else result.text) in texts
    assert len(cache._cache) == 4


def test_the_global_answer_cache_is_honoured_and_can_be_declined(tiny: GritLM) -> None:
    cache = InMemoryCache()
    set_llm_cache(cache)
    try:
        GritLLM(model=tiny, max_tokens=2).invoke("Hello")
        GritLLM(model=tiny, max_tokens=3, cache=False).invoke("Hello")
        assert len(cache._cache) == 1
    finally:
        set_llm_cache(None)


def test_the_own_tokenizer_counts_without_loading(tiny_path: Path, tiny: GritLM) -> None:
    for adapter in GENERATORS:
        model = adapter(model=GritLM(tiny_path))
        ids = model.get_token_ids("Hello world")
        assert ids == tiny.tokenize("Hello world")
        assert model.get_num_tokens("Hello world") == len(ids) == 2
        assert model.get_num_tokens("") == 0
        assert not model.grit.is_loaded
        assert adapter(model=tiny, custom_get_token_ids=lambda text: [7] * len(text)).get_num_tokens("abc") == 3


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_pickling_and_dumping_carry_arguments_not_weights(adapter: Any, tiny: GritLM) -> None:
    model = adapter(model=tiny)
    copy = pickle.loads(pickle.dumps(model))
    assert not copy.grit.is_loaded
    assert (copy.grit.source, type(copy)) == (tiny.source, adapter)
    by_name = adapter(model=tiny.source)
    assert adapter(**by_name.model_dump()).model_dump() == by_name.model_dump()
    assert tiny.source in model.model_dump_json()


def test_langchains_own_serialisation_stays_off() -> None:
    # LangChain only loads the classes in its own closed table: claiming to be serialisable would be untrue.
    assert not ChatGrit.is_lc_serializable()
    assert not GritLLM.is_lc_serializable()


def test_configurable_fields_rebuild_the_model(tiny: GritLM) -> None:
    chat = ChatGrit(model=tiny, max_tokens=6)
    chain = chat.configurable_fields(max_tokens=ConfigurableField(id="length"))
    assert chain.invoke("Hello", {"configurable": {"length": 2}}).text == answer(chat, max_tokens=2)
    assert len(list(chain.stream("Hello", {"configurable": {"length": 3}}))) == 3
    schema = (
        ChatGrit(model=tiny.source).configurable_fields(model=ConfigurableField(id="model")).get_config_jsonschema()
    )
    assert schema["$defs"]["Configurable"]["properties"]["model"]["type"] == "string"


def test_a_missing_langchain_names_the_extra_and_a_broken_one_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "langchain_core":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    for name in [name for name in sys.modules if name.startswith("grit_integrations.langchain")]:
        monkeypatch.delitem(sys.modules, name)
    with monkeypatch.context() as patch:
        for name in [name for name in sys.modules if name.partition(".")[0] == "langchain_core"]:
            patch.delitem(sys.modules, name)
        patch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
        with pytest.raises(MissingExtraError, match=r"pip install 'grit_integrations\[langchain\]'"):
            import_module("grit_integrations.langchain")
    monkeypatch.setitem(sys.modules, "langchain_core.language_models.model_profile", None)
    with pytest.raises(ModuleNotFoundError, match="model_profile"):
        import_module("grit_integrations.langchain")
