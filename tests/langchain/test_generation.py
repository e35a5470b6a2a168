"""What decides an answer: the key of LangChain's cache of answers, and what traces show of a call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoints import write_checkpoint
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_helpers import answer

from grit_integrations import Decoding, GritLM, __version__
from grit_integrations.langchain import ChatGrit, GritLLM

GENERATORS = [ChatGrit, GritLLM]


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
    params = model._get_ls_params(decoding=Decoding(temperature=0.2, stop=("z",)), max_tokens=3)
    assert (params["ls_temperature"], params["ls_max_tokens"], params["ls_stop"]) == (0.2, 3, ["z"])


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
