"""Pipes, sockets, folders and links in the place of a checkpoint's files: refused by name, at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from odd_files import ODD, Odd, is_untouched, make_link_to_a_file, outcome, outside, put_in_place

from grit_integrations import GritLM, ModelLoadError
from grit_integrations.loading import digests

NAMES = [
    "config.json",
    "generation_config.json",
    "grit_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "model.safetensors.index.json",
    "model-00002-of-00003.safetensors",
    "model.safetensors",
    "adapter_config.json",
    "adapter_model.safetensors",
]
KINDS = [make for make in ODD if make is not make_link_to_a_file]  # which is how the hub's cache holds every file


@pytest.fixture
def copy(tiny_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_path, tmp_path / "kv" / "model"))


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_what_stands_in_a_file_s_place_is_refused_by_name(copy: Path, name: str, make: Odd) -> None:
    outsiders = outside(copy / "any")
    put_in_place(copy / name, make)
    error = outcome(lambda: GritLM.from_pretrained(copy))
    assert isinstance(error, ModelLoadError)
    assert f"{copy / name} is " in str(error) and "Put the checkpoint's own file in its place" in str(error)
    assert is_untouched(outsiders)


@pytest.mark.parametrize("make", KINDS)
def test_what_stands_in_the_place_of_a_projection_head(copy: Path, make: Odd) -> None:
    put_in_place(copy.parent / "head.safetensors", make)
    error = outcome(lambda: GritLM.from_pretrained(copy, embedding_head=copy.parent / "head.safetensors"))
    assert isinstance(error, ModelLoadError) and "head.safetensors" in str(error)


@pytest.mark.parametrize("make", ODD)
def test_what_stands_in_the_place_of_remembered_digests(
    tmp_path: Path, make: Odd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRIT_CACHE", str(tmp_path / "kv"))
    monkeypatch.setattr(digests, "_known", {})
    file = tmp_path / "file"
    file.write_bytes(b"weights")
    (tmp_path / "kv").mkdir()
    put_in_place(tmp_path / "kv" / "digests.json", make)
    found: list[str] = []
    assert outcome(lambda: found.append(digests.file_digest(file))) is None
    assert found == ["873ac3c6df553eaa62331fd4ff9b521a"]


def test_a_checkpoint_may_be_links_to_files(tiny_path: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for file in tiny_path.iterdir():
        (tmp_path / "model" / file.name).symlink_to(file)
    assert GritLM.from_pretrained(tmp_path / "model").fingerprint == GritLM(tiny_path).fingerprint
