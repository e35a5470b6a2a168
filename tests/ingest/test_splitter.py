"""Passages are slices of the text that the model takes."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from growth import assert_linear
from hostile_shapes import MARKDOWN, TEXT
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document

from grit_integrations import GritLM, OptionError
from grit_integrations.ingest import PassageSplitter, find_files, read_file


def test_passages_are_slices_of_the_text_below_the_limit(tiny: GritLM) -> None:
    text = "\n\n".join(f"## Part {n}\n\n" + "Some words stand here, and more. " * (n % 9 + 1) for n in range(40))
    passages = PassageSplitter(tiny, 48).split([Document(text, metadata={"source": "x"})])
    for passage in passages:
        start = passage.metadata["start_index"]
        assert text[start : start + len(passage.page_content)] == passage.page_content
        assert not passage.page_content.rsplit("\n", 1)[-1].startswith("## ")  # a heading stays with its text
        assert tiny.count_tokens(passage.page_content) <= 48 + 16
    joined = "".join(passage.page_content for passage in passages)
    assert "".join(joined.split()) == "".join(text.split())


@settings(deadline=None, max_examples=50)
@given(text=st.text(max_size=600))
def test_any_text_is_split_into_what_the_model_takes(text: str, tiny: GritLM) -> None:
    clean = text.replace("\x00", "")
    passages = PassageSplitter(tiny, 16).split([Document(clean)])
    assert all(0 < tiny.count_tokens(passage.page_content) < tiny.window for passage in passages)


@pytest.mark.parametrize("text", ["# a" + " " * 30_000 + "x\n", ("# " + "word " * 150 + "\n") * 40])
def test_headings_never_make_a_passage_too_long(text: str, tiny: GritLM) -> None:
    passages = PassageSplitter(tiny, 192).split([Document(text)])
    assert max(tiny.count_tokens(passage.page_content) for passage in passages) <= 192 * 3 // 2
    assert "".join("".join(p.page_content for p in passages).split()) == "".join(text.split())


SHAPES = TEXT | MARKDOWN


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_splitting_takes_linear_time(shape: Callable[[int], str], tiny: GritLM) -> None:
    splitter = PassageSplitter(tiny)
    assert_linear(lambda text: splitter.split([Document(text)]), shape, 5_000)


def test_a_long_text_without_any_break(tiny: GritLM) -> None:
    passages = PassageSplitter(tiny, 192).split([Document("x" * 100_000)])
    assert sum(len(passage.page_content) for passage in passages) == 100_000


@pytest.mark.parametrize("tokens", [0, -5, 15, 4000, 100_000])
def test_impossible_sizes(tiny: GritLM, tokens: int) -> None:
    with pytest.raises(OptionError, match="16 to 3,072"):
        PassageSplitter(tiny, tokens)


def test_the_corpus_is_readable(tiny: GritLM) -> None:
    corpus = Path(__file__).parents[2] / "examples" / "corpus"
    found = find_files([corpus])
    splitter = PassageSplitter(tiny)
    passages = [passage for file in found.files for passage in splitter.split(read_file(file))]
    assert 300 <= len(passages) <= 950
    assert textwrap.shorten(passages[0].page_content, 40)
