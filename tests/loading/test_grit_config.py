"""What a checkpoint may say about itself in `grit_config.json`, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import DOCS, MINI, table

from grit_integrations import GritLM, ModelLoadError
from grit_integrations.loading.grit_config import GritConfig
from grit_integrations.loading.sources import find_checkpoint

KEYS = [key.name for key in dataclasses.fields(GritConfig)]

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def test_every_key_is_optional() -> None:
    assert GritConfig.of({}, "m") == GritConfig()
    assert find_checkpoint("grit-mini").grit_config.reranking_order == "passage-block"


def test_the_table_of_the_docs_has_every_key_and_no_other() -> None:
    page = (DOCS / "models.md").read_text(encoding="utf-8")
    assert [cells[0].strip("`") for cells in table(page, "key | what it holds")] == KEYS


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("format", 2, "1"),
        ("format", True, "1"),
        ("base", "a/hub-id", "an object"),
        ("golden", {"<|embed|>\n": ["1"]}, "known prompts and the token ids"),
        ("golden", [1], "known prompts and the token ids"),
        ("pooling", "max", "'mean', 'weightedmean', 'lasttoken', 'cls'"),
        ("pooling", ["mean"], "'mean', 'weightedmean', 'lasttoken', 'cls'"),
        ("pooling", "token:", "or 'token:' and a token of the tokenizer"),
        ("append_eos", 1, "true or false"),
        ("attention", "cbcc", "one of 'bbcc', 'cccc'"),
        ("turns", "chatml", "'grit', 'chat_template'"),
        ("markers", {"users": "<U>"}, "an object of texts for user, assistant, embed, document"),
        ("markers", {"user": ""}, "an object of texts for user, assistant, embed, document"),
        ("markers", {"embed": None}, "an object of texts for user, assistant, embed, document"),
        ("reranking_prompt", "{query}", "a text that has {query} and {passage}, each once"),
        ("reranking_prompt", "{query} {query} {passage} {passage}", "a text that has {query} and {passage}, each once"),
        ("reranking_answer", ["Answer:"], "a text without NUL"),
        ("reranking_words", [" yes"], "two texts that differ"),
        ("reranking_words", [" yes", " yes"], "two texts that differ"),
        ("reranking_words", [" yes", ""], "two texts that differ"),
        ("query_instruction", None, "a text without NUL and lone surrogates"),
        ("document_instruction", "a\x00b", "a text without NUL and lone surrogates"),
        ("reranking_order", "last-first", "'query-first', 'passage-first', 'passage-block'"),
    ],
)
def test_a_value_that_a_key_cannot_have_is_refused_with_those_that_it_can(key: str, value: Any, wanted: str) -> None:
    with pytest.raises(ModelLoadError) as found:
        GritConfig.of({key: value}, "the model")
    assert f"the model: grit_config.json has {key}={value!r}. It must be " in str(found.value)
    assert wanted in str(found.value)


@pytest.mark.parametrize(
    ("prompt", "order"),
    [
        ("{query} {passage}", "passage-first"),
        ("{passage} {query}", "query-first"),
        ("P: {passage} {query}", "passage-block"),
    ],
)
def test_an_order_that_the_reranking_prompt_does_not_have_is_refused(prompt: str, order: str) -> None:
    with pytest.raises(ModelLoadError, match=f"the model: .*reranking_order='{order}', and its reranking_prompt is "):
        GritConfig.of({"reranking_prompt": prompt, "reranking_order": order}, "the model")


@pytest.mark.parametrize("pooling", ["cls", "token:<|embed|>"])
def test_a_vector_that_would_know_nothing_of_its_text_is_refused(pooling: str) -> None:
    with pytest.raises(
        ModelLoadError, match=r"the model: .*attention='cccc', so that the vector would be the state of"
    ):
        GritConfig.of({"attention": "cccc", "pooling": pooling}, "the model")
    GritConfig.of({"attention": "cccc", "pooling": "token:<|vector|>"}, "the model")


def test_an_unknown_key_is_refused_by_its_name(tmp_path: Path) -> None:
    path = Path(shutil.copytree(MINI, tmp_path / "model"))
    (path / "grit_config.json").write_text(json.dumps({"poolin": "mean", "pooling": "mean"}))
    with pytest.raises(ModelLoadError, match=r"has poolin, which this version does not know. Known are format, base, "):
        GritLM(path).load()


@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=8), JSON_VALUES, max_size=4))
def test_any_json_object_is_a_config_or_is_refused(found: dict[str, Any]) -> None:
    try:
        config = GritConfig.of(found, "m")
    except ModelLoadError:
        return
    assert all(getattr(config, key) == value for key, value in found.items() if key != "base")
    assert (config.base is None) == (found.get("base") is None)
