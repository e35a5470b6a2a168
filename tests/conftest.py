"""Shared fixtures: tiny random checkpoints for mechanics, the bundled grit-mini for meaning."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from checkpoints import write_checkpoint

from grit_integrations import GritLM, unload_all

if TYPE_CHECKING:
    from chromadb.api import ClientAPI


@pytest.fixture(autouse=True, scope="session")
def _digests_of_this_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is written into the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random 2-layer Mistral in GritLM-7B's hub layout, with its tokenizer and a window of 4,096."""
    return write_checkpoint(tmp_path_factory.mktemp("tiny") / "GritLM-tiny")


@pytest.fixture(scope="session")
def tiny(tiny_path: Path) -> GritLM:
    """The random model, loaded: proves mechanics, says nothing about meaning."""
    return GritLM.from_pretrained(tiny_path)


@pytest.fixture(scope="session")
def mini() -> GritLM:
    """The bundled grit-mini, loaded: proves meaning."""
    return GritLM.bundled()


@pytest.fixture
def client(tmp_path: Path) -> ClientAPI:
    """A Chroma client on a folder of its own."""
    from grit_integrations.chroma import persistent_client

    return persistent_client(tmp_path / "chroma")


@pytest.fixture(autouse=True, scope="module")
def _nothing_stays_in_memory() -> Iterator[None]:
    """Weights stay loaded until they are let go of: a thousand tests would fill the machine."""
    yield
    unload_all()
