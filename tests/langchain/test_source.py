"""Which model an adapter means: from the environment, by name, by object; what it costs, what is shared and kept."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from checkpoints import write_checkpoint
from langchain_core.documents import Document
from langchain_core.runnables import ConfigurableField
from langchain_helpers import answer, cache_read
from loads import noted_loads

from grit_integrations import GritLM, MissingExtraError, ModelLoadError, OptionError
from grit_integrations.langchain import ChatGrit, GritEmbeddings, GritLLM, GritReranker, GritRetriever

ADAPTERS = [ChatGrit, GritLLM, GritEmbeddings]


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


def test_a_model_named_for_one_call_answers_it_and_is_kept(tiny: GritLM, other: GritLM) -> None:
    chat = ChatGrit(model=tiny, max_tokens=4)
    expected = answer(ChatGrit(model=other, max_tokens=4))
    for override in (other, other.source, Path(other.source)):
        result = chat.invoke("Hello", model=override)
        assert (result.text, result.response_metadata["model_name"]) == (expected, other.source)
    named = chat._call_of(None, {"model": other.source}).grit
    assert chat._call_of(None, {"model": other.source}).grit is named
    assert chat._call_of(None, {"model": tiny.source}).grit is tiny
    with pytest.raises(OptionError, match="model=3 is not possible"):
        chat.invoke("Hello", model=3)


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


# Adapters made for each request

PAGE = "The heart is a muscle that pumps blood through the vessels of the body. " * 8


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The checkpoints whose weights have been read so far."""
    return noted_loads(monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A model that nobody has loaded yet."""
    return str(write_checkpoint(tmp_path / "GritLM-fresh", seed=3))


def made_anew(path: str, grit: GritLM) -> Callable[[str], Any]:
    return lambda question: ChatGrit(model=path, max_tokens=2).invoke(question, documents=[PAGE])


def named_by_the_call(path: str, grit: GritLM) -> Callable[[str], Any]:
    chat = ChatGrit(model=grit, max_tokens=2)
    return lambda question: chat.invoke(question, documents=[PAGE], model=path)


def temperature_configured(path: str, grit: GritLM) -> Callable[[str], Any]:
    chat = ChatGrit(model=path, max_tokens=2).configurable_fields(temperature=ConfigurableField(id="temperature"))
    return lambda question: chat.invoke(question, {"configurable": {"temperature": 0.0}}, documents=[PAGE])


def model_configured(path: str, grit: GritLM) -> Callable[[str], Any]:
    chat = ChatGrit(model=grit, max_tokens=2).configurable_fields(model=ConfigurableField(id="model"))
    return lambda question: chat.invoke(question, {"configurable": {"model": path}}, documents=[PAGE])


@pytest.mark.parametrize("way", [made_anew, named_by_the_call, temperature_configured, model_configured])
def test_requests_load_the_weights_once_and_find_the_cache_again(
    way: Any, path: str, tiny: GritLM, loads: list[str]
) -> None:
    ask = way(path, tiny)
    answers = [ask(f"What pumps blood, in {n} words?") for n in range(20)]
    assert loads == [path]
    assert cache_read(answers[0]) == 0
    assert all(cache_read(found) > 100 for found in answers[1:])
    assert {found.response_metadata["model_name"] for found in answers} == {path}


def test_every_kind_of_adapter_finds_the_same_weights(path: str, loads: list[str]) -> None:
    for _ in range(3):
        embeddings = GritEmbeddings(model=path)
        retriever = GritRetriever.from_documents([Document(PAGE)], model=path, reranker=GritReranker(), k=1)
        assert embeddings.embed_query("What pumps blood?")
        assert retriever.invoke("What pumps blood?")[0].page_content == PAGE
        assert GritLLM(model=path, max_tokens=1).invoke("Hello")
    assert loads == [path]


def test_a_models_settings_are_the_callers(tiny: GritLM) -> None:
    before = tiny.settings
    ChatGrit(model=tiny, caching="doc", max_tokens=1).invoke("Hello", documents=[PAGE])
    GritRetriever.from_documents([Document(PAGE)], model=tiny, prefer_cached=0.1).invoke("Hello")
    assert tiny.settings is before


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
