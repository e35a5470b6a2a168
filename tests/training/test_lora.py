"""Low-rank adapters: only they change, and what is exported is plain weights."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import write_checkpoint
from gguf_models import write_gguf
from recipes import Trained, tiny_recipe
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from grit_integrations import GritLM
from grit_integrations.errors import ConfigError
from grit_integrations.loading.bases import Base
from grit_integrations.training import TrainConfig, train
from grit_integrations.training.config import LoraConfig, ModelConfig, config_from_table
from grit_integrations.training.trainer import Run, _threads

ADAPTERS = LoraConfig(rank=4, alpha=8, dropout=0.1, targets=("q_proj", "v_proj", "down_proj"))


def adapted(base: Path, output: Path, *, lora: LoraConfig = ADAPTERS, **changes: object) -> TrainConfig:
    config = tiny_recipe(output, bag_steps=0, lora=lora, **{"steps": 8, **changes})
    model = dataclasses.replace(config.model, checkpoint=str(base), projection=16)
    return dataclasses.replace(config, model=model)


def test_only_adapters_change(trained: Trained, tmp_path: Path) -> None:
    run = Run(adapted(trained.result.model, tmp_path))
    before = {name: value.clone() for name, value in run.module.state_dict().items()}
    for _ in range(2):
        run.step()
    changed = {name for name, value in run.module.state_dict().items() if not torch.equal(value, before[name])}
    layers = [
        f"lm.model.layers.{n}.{part}"
        for n in (0, 1)
        for part in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
    ]
    adapters = {f"{layer}.lora_{half}.default.weight" for layer in layers for half in "AB"}
    assert changed == adapters | {"projection.weight", "projection.bias"}
    assert {group["name"]: len(group["params"]) for group in run.optimiser.param_groups} == {
        "embedding": 0,
        "body": 12,
        "head": 2,
    }


def test_the_export_is_a_plain_model_with_the_adapters_in_it(trained: Trained, tmp_path: Path) -> None:
    config = adapted(trained.result.model, tmp_path, evaluate_sets=("questions",))
    result = train(config, progress=False)
    base, tuned = (
        AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (trained.result.model, result.model)
    )
    assert base.keys() == tuned.keys()
    different = {name for name in base if not torch.equal(base[name], tuned[name])}
    assert different == {name for name in base if any(target in name for target in ADAPTERS.targets)}
    run = Run(config)
    tensors = load_file(tmp_path / "best.safetensors")
    run.module.load_state_dict(
        {name if name.startswith("projection.") else f"lm.{name}": value for name, value in tensors.items()},
        strict=False,
    )
    run.module.eval()
    ids = torch.tensor([[1, 30, 40, 50, 60]])
    with torch.no_grad():
        live, merged = (
            lm(ids).logits
            for lm in (run.model, AutoModelForCausalLM.from_pretrained(result.model, dtype=torch.float32))
        )
    assert torch.allclose(live, merged, atol=0.05)  # the export is bfloat16
    texts = ["the mill by the hill"]
    one, two = (GritLM.from_pretrained(path).embed_documents(texts) for path in (trained.result.model, result.model))
    assert not np.allclose(one, two, atol=1e-3)


def test_a_checkpoint_holds_the_adapters_alone_and_resumes_to_the_bit(trained: Trained, tmp_path: Path) -> None:
    straight = adapted(trained.result.model, tmp_path / "straight", evaluate_every=100)
    train(straight, progress=False)
    parts = adapted(trained.result.model, tmp_path / "parts", evaluate_every=100, checkpoint_every=3)
    run = Run(parts)
    run.progress.first = {"step": 0}
    with _threads(parts.threads):
        for _ in range(3):
            run._log(run.step())
        run._save()
    train(parts, progress=False)
    found = [
        load_file(tmp_path / name / "checkpoints" / "step-00000008" / "model.safetensors")
        for name in ("straight", "parts")
    ]
    assert all("lora_" in name or name.startswith("projection.") for name in found[0])
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_the_adapter_is_saved_too(trained: Trained, tmp_path: Path) -> None:
    from peft import PeftModel

    result = train(adapted(trained.result.model, tmp_path), progress=False)
    saved = json.loads((result.model / "adapter" / "adapter_config.json").read_text())
    assert (saved["r"], saved["lora_alpha"]) == (4, 8)
    base = AutoModelForCausalLM.from_pretrained(trained.result.model, dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, result.model / "adapter").merge_and_unload()
    exported = AutoModelForCausalLM.from_pretrained(result.model, dtype=torch.float32)
    for name, value in exported.state_dict().items():
        assert torch.allclose(merged.state_dict()[name], value, atol=0.02, rtol=0.01), name


def test_layers_that_the_model_lacks_are_named(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lora\.targets.*query_key_value"):
        Run(adapted(trained.result.model, tmp_path, lora=LoraConfig(targets=("query_key_value",))))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral"])
def test_a_killed_run_of_every_architecture_resumes_to_the_bit(kind: str, tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base", kind)  # random weights
    straight = adapted(base, tmp_path / "straight", steps=4, evaluate_every=100)
    train(straight, progress=False)
    killed = adapted(base, tmp_path / "killed", steps=4, evaluate_every=100)
    run = Run(killed)
    run.progress.first = {"step": 0}
    with _threads(killed.threads):
        for step in (1, 2, 3):
            run._log(run.step())
            if step == 2:
                run._save()  # what came after it is lost
    result = train(killed, progress=False)
    one, two = (load_file(out / "best.safetensors") for out in (tmp_path / "straight", tmp_path / "killed"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert GritLM(result.model, device="cpu").embed_queries(["Who?"]).shape == (1, 64)  # its tokenizer is the base's


def test_a_run_goes_on_from_a_saved_adapter(trained: Trained, tmp_path: Path) -> None:
    first = train(adapted(trained.result.model, tmp_path / "first"), progress=False)
    folder = first.model / "adapter"
    settings = dataclasses.replace(ADAPTERS, start=str(folder))
    run = Run(adapted(trained.result.model, tmp_path / "second", lora=settings))
    found = load_file(folder / "adapter_model.safetensors")
    own = {name: value for name, value in run.model.state_dict().items() if ".lora_" in name}
    assert len(own) == len(found) == 12
    for name, value in found.items():
        inside = name.removeprefix("base_model.model.").replace(".weight", ".default.weight")
        assert value.dtype == torch.bfloat16
        assert torch.equal(own[inside], value.float())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 2}, "lora.rank is 2, the adapter in lora.start .* has 4"),
        ({"alpha": 16}, "lora.alpha is 16, the adapter in lora.start .* has 8"),
        ({"targets": ("q_proj",)}, "lora.targets differ in model.layers.0.mlp.down_proj.lora_A"),
        ({"start": "nowhere"}, "lora.start nowhere is no adapter in peft's format"),
    ],
)
def test_an_adapter_of_another_shape_is_refused(
    trained: Trained, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    run = Run(adapted(trained.result.model, tmp_path / "first"))
    run._export(run._tensors(), tmp_path / "saved")
    settings = dataclasses.replace(ADAPTERS, **{"start": str(tmp_path / "saved" / "adapter"), **changes})
    with pytest.raises(ConfigError, match=message):
        Run(adapted(trained.result.model, tmp_path / "second", lora=settings))


def test_an_adapter_on_a_gguf_base_is_a_model_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIT_CACHE", str(tmp_path / "cache"))
    file = write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr(Base, "_fetched", lambda *_: file)  # no hub is reached in tests
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    base = Base(hub="someone/model-GGUF", revision="0123abc", file=file.name, sha256=digest)
    config = tiny_recipe(tmp_path / "run", bag_steps=0, lora=ADAPTERS, steps=2)
    result = train(dataclasses.replace(config, model=ModelConfig(base=base)), progress=False)
    alone = GritLM(result.model / "adapter", device="cpu", dtype="float32")
    merged = GritLM(result.model, device="cpu", dtype="float32")
    assert json.loads((result.model / "adapter" / "grit_config.json").read_text())["base"]["sha256"] == digest
    named = json.loads((result.model / "adapter" / "adapter_config.json").read_text())
    assert (named["base_model_name_or_path"], named["revision"]) == ("someone/model-GGUF", "0123abc")
    assert alone.checkpoint.adapter is not None
    state = merged.lm.state_dict()
    assert all(torch.equal(value.bfloat16().float(), state[name]) for name, value in alone.lm.state_dict().items())
    with pytest.raises(ConfigError, match=r"model\.checkpoint and \[model\.base\] are two models"):
        config_from_table(
            {
                "output": "out",
                "data": {"data": "data"},
                "model": {"checkpoint": "x", "base": dataclasses.asdict(base)},
            }
        )
