"""GGUF files: the weights are transformers' own, converted once, and what cannot be read leaves nothing behind."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from gguf_models import write_gguf
from transformers import AutoModelForCausalLM

from grit_integrations import GritLM, ModelLoadError
from grit_integrations.loading.gguf_files import converted


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf")


def left(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir()) if cache.exists() else []


def test_the_weights_are_those_that_transformers_reads(file: Path, cache: Path) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    grit = GritLM(file.parent, gguf_file=file.name, device="cpu")
    own = grit.lm.state_dict()
    assert own.keys() == theirs.state_dict().keys()
    assert all(torch.equal(own[name], value) for name, value in theirs.state_dict().items())
    ids = torch.tensor([[1, 10, 20, 30]])
    with torch.no_grad():
        assert torch.equal(grit.lm(ids).logits, theirs(ids).logits)
    assert grit.embed_queries(["blood"]).shape == (1, 64)
    assert grit.generate("Who?", ["A heart."], caching="doc", decoding=None).token_ids
    assert len(left(cache)) == 1


def test_a_file_is_converted_once(file: Path, cache: Path, tmp_path: Path) -> None:
    first = converted(file)
    weights = first / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert converted(file) == first
    moved = file.rename(tmp_path / "moved.gguf")
    assert converted(moved) == first
    assert weights.stat().st_mtime_ns == before
    assert GritLM(tmp_path, gguf_file="moved.gguf").fingerprint == GritLM(first).fingerprint


def test_other_bytes_are_another_model(tmp_path: Path, cache: Path) -> None:
    one = GritLM(tmp_path, gguf_file=write_gguf(tmp_path / "one.gguf").name)
    two = GritLM(tmp_path, gguf_file=write_gguf(tmp_path / "two.gguf", seed=1).name)
    assert one.fingerprint != two.fingerprint
    write_gguf(tmp_path / "one.gguf", seed=1)  # written anew in the same place
    assert one.fingerprint == two.fingerprint


@pytest.mark.parametrize("damage", ["truncated", "removed", "half-written"])
def test_a_damaged_conversion_is_made_again(file: Path, cache: Path, damage: str) -> None:
    target = converted(file)
    weights = target / "model.safetensors"
    whole = weights.read_bytes()
    if damage == "truncated":
        weights.write_bytes(whole[:-10])
    elif damage == "removed":
        weights.unlink()
    else:
        (target / "converted.json").unlink()
    assert converted(file) == target
    assert weights.read_bytes() == whole


def test_what_killed_processes_left_is_removed(file: Path, cache: Path) -> None:
    gone = multiprocessing.get_context("spawn").Process(target=os.getpid)
    gone.start()
    gone.join()
    for name in (f".converting-{gone.pid}", f".converting-{os.getppid()}"):
        (cache / name).mkdir(parents=True)
        (cache / name / "model.safetensors").write_bytes(b"half")
    target = converted(file)
    assert left(cache) == sorted([target.name, f".converting-{os.getppid()}"])  # that one still runs


def other_architecture(path: Path) -> None:
    write_gguf(path, architecture="bert")


def scaled_positions(path: Path) -> None:
    write_gguf(path, beside="rope_freqs.weight")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def cut_into_table(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def unknown_quantization(path: Path) -> None:
    data = path.read_bytes()
    name = b"blk.0.attn_q.weight"
    at = data.index(name) + len(name) + 4 + 2 * 8  # behind the number of dimensions and the dimensions
    path.write_bytes(data[:at] + (250).to_bytes(4, "little") + data[at + 4 :])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_architecture, "'bert' model.*embeds and generates"),
        (scaled_positions, r"has a tensor rope_freqs\.weight, which transformers' reader leaves out"),
        (cut, "truncated"),
        (cut_into_table, "cannot be read"),
        (unknown_quantization, "of an unknown quantisation"),
        (lambda path: path.write_bytes(b"PK\3\4 something else"), "is no GGUF file"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_and_leaves_nothing(
    file: Path, cache: Path, damage: object, message: str
) -> None:
    assert callable(damage)
    damage(file)
    with pytest.raises(ModelLoadError, match=message):
        GritLM(file.parent, gguf_file=file.name).load()
    assert left(cache) == []


def test_a_name_that_is_not_there_is_refused(file: Path, cache: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"has no other\.gguf\. It has tiny\.gguf"):
        GritLM(file.parent, gguf_file="other.gguf").load()
    with pytest.raises(ModelLoadError, match="must be the name of a file in"):
        GritLM(file.parent, gguf_file=f"../{file.parent.name}/tiny.gguf").load()
    with pytest.raises(ModelLoadError, match=r"tiny\.gguf of 'someone/model' is no local directory and could not be"):
        GritLM("someone/model", gguf_file="tiny.gguf", local_files_only=True).load()


def test_a_cache_that_cannot_be_written_is_named(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("GRIT_CACHE", str(tmp_path / "taken"))
    with pytest.raises(ModelLoadError, match=r"cannot take the converted weights.*set GRIT_CACHE"):
        GritLM(file.parent, gguf_file=file.name).load()


def _convert(file: Path) -> str:
    return str(converted(file))


def test_processes_that_convert_at_the_same_time_get_the_same(file: Path, cache: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert len(set(pool.map(_convert, [file, file]))) == 1
    assert len(left(cache)) == 1
