"""An index as it is opened: with its model and no other; and what can be asked of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoints import write_checkpoint
from index_contents import contents

from grit_integrations import CollectionMismatchError, GritLM, IngestError, OptionError
from grit_integrations.ingest import PassageIndex


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> GritLM:
    return GritLM(write_checkpoint(tmp_path_factory.mktemp("other") / "other", seed=1))


def test_another_model_is_refused_before_any_work(index: PassageIndex, docs: Path, other: GritLM) -> None:
    index.index([docs])
    with pytest.raises(CollectionMismatchError) as refusal:
        PassageIndex(index.directory, other)
    assert index.model.fingerprint in str(refusal.value)
    assert other.fingerprint in str(refusal.value)
    assert not other.is_loaded


def test_a_copy_of_the_model_is_the_same_model(index: PassageIndex, tiny_path: Path, tmp_path: Path) -> None:
    copied = tmp_path / "elsewhere"
    copied.symlink_to(tiny_path)
    PassageIndex(index.directory, GritLM(copied))


def test_another_handle_opens_another_index(index: PassageIndex, docs: Path, other: GritLM) -> None:
    index.index([docs])
    model = index.model
    handle = model.with_options(caching="doc")
    opened = index.with_model(handle)
    assert opened.model is handle
    assert index.model is model
    assert opened.search("The heart", k=1) == index.search("The heart", k=1)
    with pytest.raises(CollectionMismatchError):
        index.with_model(other)


def test_a_store_keeps_its_passage_size(tmp_path: Path, tiny: GritLM) -> None:
    PassageIndex(tmp_path / "store", tiny, create=True, passage_tokens=64)
    assert PassageIndex(tmp_path / "store", tiny).splitter.tokens == 64
    with pytest.raises(IngestError, match="up to 64 tokens, and 128"):
        PassageIndex(tmp_path / "store", tiny, passage_tokens=128)
    with pytest.raises(OptionError):
        PassageIndex(tmp_path / "other", tiny, create=True, passage_tokens=9999)
    assert not (tmp_path / "other").exists()


def test_texts_of_all_files_or_of_some(index: PassageIndex, docs: Path) -> None:
    index.index([docs])
    assert sorted(index.texts()) == sorted(text for texts in contents(index).values() for text in texts)
    assert index.texts([str(docs / "heart.txt")]) == ["The heart pumps blood through the body."]
    assert index.texts([]) == []
