"""A fingerprint is of every byte that computes, as it was loaded: what is stored under it is never another model's."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from grit_integrations import Decoding, GritLM, KVCacheStore, ModelLoadError
from grit_integrations.loading import digests
from grit_integrations.loading.digests import file_digest

PAGE = "The heart pumps blood through the body. " * 12
SHORT = Decoding(max_new_tokens=4, logprobs=0)


@pytest.fixture
def copy(tiny_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_path, tmp_path / "model"))


def weights_file(model: Path, tensor: str) -> Path:
    index = json.loads((model / "model.safetensors.index.json").read_text())
    return model / index["weight_map"][tensor]


def edit(model: Path, tensor: str, change: Callable[[torch.Tensor], None]) -> None:
    file = weights_file(model, tensor)
    tensors = {name: value.clone() for name, value in load_file(file).items()}
    change(tensors[tensor])
    save_file(tensors, file, metadata={"format": "pt"})


def put_adapter(model: Path, seed: int) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    lora = LoraConfig(r=2, lora_alpha=64, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    lora.task_type = "CAUSAL_LM"
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    get_peft_model(base, lora).save_pretrained(model)


def one_number(tensor: torch.Tensor) -> None:
    tensor[tensor.shape[0] // 2] *= -1


@pytest.mark.parametrize(
    "tensor",
    ["model.embed_tokens.weight", "lm_head.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"],
)
def test_any_tensor_s_middle_changes_it(copy: Path, tensor: str) -> None:
    before = GritLM(copy).fingerprint
    edit(copy, tensor, one_number)
    assert GritLM(copy).fingerprint != before


def test_a_store_never_answers_for_other_weights(copy: Path, tmp_path: Path) -> None:
    store = KVCacheStore(tmp_path / "kv", ram_bytes=0)
    grit = GritLM(copy, dtype="float32", kv_store=store)
    assert grit.generate("What pumps?", [PAGE], decoding=SHORT).cache.hits == 0
    store.flush()
    assert grit.generate("What pumps?", [PAGE], decoding=SHORT).cache.hits == 1
    vector = grit.embed_documents([PAGE])
    edit(copy, "model.embed_tokens.weight", torch.Tensor.neg_)
    other = GritLM(copy, dtype="float32", kv_store=store)
    found = other.generate("What pumps?", [PAGE], decoding=SHORT)
    assert found.cache.hits == 0
    assert found.logprobs == other.generate("What pumps?", [PAGE], decoding=SHORT, caching="off").logprobs
    assert not np.allclose(other.embed_documents([PAGE]), vector, atol=1e-2)


def test_an_adapter_in_the_folder_is_part_of_it(copy: Path) -> None:
    plain = GritLM(copy, dtype="float32").fingerprint
    put_adapter(copy, 1)
    first = GritLM(copy, dtype="float32")
    one, vector = first.fingerprint, first.embed_documents([PAGE])
    put_adapter(copy, 2)
    second = GritLM(copy, dtype="float32")
    assert len({plain, one, second.fingerprint}) == 3
    assert not np.allclose(second.embed_documents([PAGE]), vector, atol=1e-3)
    (copy / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"adapter_config\.json and no adapter_model"):
        GritLM(copy, dtype="float32").load()


def test_switching_adapters_on_the_live_model_changes_it_and_back(copy: Path) -> None:
    put_adapter(copy, 1)
    grit = GritLM(copy, dtype="float32")
    loaded = grit.fingerprint
    with_adapter = grit.generate("What pumps?", [PAGE], decoding=SHORT)
    grit.lm.disable_adapters()
    assert grit.fingerprint != loaded
    without = grit.generate("What pumps?", [PAGE], decoding=SHORT)
    assert without.cache.hits == 0 and without.logprobs != with_adapter.logprobs
    assert without.logprobs == grit.generate("What pumps?", [PAGE], decoding=SHORT, caching="off").logprobs
    grit.lm.enable_adapters()
    assert grit.fingerprint == loaded
    again = grit.generate("What pumps?", [PAGE], decoding=SHORT)
    assert again.cache.hits == 1 and again.logprobs == with_adapter.logprobs


def test_writing_into_the_live_weights_changes_it(copy: Path) -> None:
    grit = GritLM(copy, dtype="float32")
    loaded = grit.fingerprint
    grit.generate("What pumps?", [PAGE], decoding=SHORT)
    with torch.no_grad():
        grit.lm.get_input_embeddings().weight.mul_(-1)
    assert grit.fingerprint != loaded
    assert grit.generate("What pumps?", [PAGE], decoding=SHORT).cache.hits == 0


def test_switching_an_adapter_of_one_layer_or_moving_the_weights_changes_it(copy: Path) -> None:
    put_adapter(copy, 1)
    grit = GritLM(copy, dtype="float32")
    loaded = grit.fingerprint
    layers = [module for module in grit.lm.modules() if hasattr(module, "active_adapter")]
    layers[1].enable_adapters(False)
    assert grit.fingerprint != loaded
    layers[1].enable_adapters(True)
    assert grit.fingerprint == loaded
    grit.lm.to(torch.bfloat16)
    assert grit.fingerprint != loaded


def test_weights_loaded_in_inference_mode_have_one_too(copy: Path) -> None:
    with torch.inference_mode():
        grit = GritLM(copy, dtype="float32").load()
    assert grit.fingerprint == GritLM(copy).checkpoint.fingerprint


def test_a_loaded_model_keeps_the_fingerprint_of_what_it_loaded(copy: Path) -> None:
    grit = GritLM(copy, dtype="float32").load()
    before, vector = grit.fingerprint, grit.embed_documents([PAGE])
    edit(copy, "model.embed_tokens.weight", one_number)
    assert grit.fingerprint == before and np.array_equal(grit.embed_documents([PAGE]), vector)
    grit.unload()
    assert grit.fingerprint != before


def test_a_replaced_head_is_another_model(copy: Path, tmp_path: Path) -> None:
    head = tmp_path / "head.safetensors"
    save_file({"weight": torch.eye(64)[:16].clone()}, head)
    grit = GritLM(copy, dtype="float32", embedding_head=head)
    named = grit.fingerprint
    first = grit.embed_documents([PAGE])
    assert grit.fingerprint == named, "before loading and after"
    save_file({"weight": torch.eye(64)[16:32].clone()}, head)
    other = GritLM(copy, dtype="float32", embedding_head=head)
    assert grit.fingerprint == named != other.fingerprint
    assert not np.allclose(other.embed_documents([PAGE]), first, atol=1e-3)


def test_a_checkpoint_that_changes_between_two_looks_is_refused(copy: Path) -> None:
    grit = GritLM(copy)
    checkpoint = grit.checkpoint
    assert checkpoint.config["vocab_size"] == 32000
    edit(copy, "model.embed_tokens.weight", one_number)
    with pytest.raises(ModelLoadError, match="written anew"):
        _ = checkpoint.fingerprint
    assert grit.load().fingerprint == GritLM(copy).fingerprint, "the handle finds what lies there now"


def test_a_digest_is_computed_once_and_anew_when_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    computed: list[Path] = []
    original = digests._computed
    monkeypatch.setenv("GRIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "_computed", lambda path, digest: (computed.append(path), original(path, digest))[1])
    file = tmp_path / "weights"
    file.write_bytes(b"a" * 1000)
    first = file_digest(file)
    assert file_digest(file) == first and len(computed) == 2, "too fresh to be remembered: it may change unseen"
    os.utime(file, (1e9, 1e9))
    assert file_digest(file) == file_digest(file) == first and len(computed) == 3
    monkeypatch.setattr(digests, "_known", {})
    assert file_digest(file) == first and len(computed) == 3, "another process finds it on disk"
    file.write_bytes(b"b" * 1000)
    assert file_digest(file) != first
    (tmp_path / "cache" / "digests.json").write_text("[damaged")
    monkeypatch.setattr(digests, "_known", {})
    os.utime(file, (1e9, 1e9))
    assert file_digest(file) == original(file, hashlib.blake2b(digest_size=16))
