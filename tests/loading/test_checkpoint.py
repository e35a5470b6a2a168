"""What is refused before any weight is read, and with which words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import write_checkpoint
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertConfig, BertModel

from grit_integrations import GritLM, ModelLoadError
from grit_integrations.loading.sources import find_checkpoint


@pytest.fixture
def copy(tiny_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_path, tmp_path / "copy"))


def edit_config(path: Path, **changes: object) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **changes}))


def remove_safetensors(path: Path) -> None:
    for file in path.glob("*safetensors*"):
        file.unlink()


def truncate_shard(path: Path) -> None:
    shard = sorted(path.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])


def cut_into_header(path: Path) -> None:
    shard = sorted(path.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:20])


def drop_tensor(path: Path) -> None:
    shard = sorted(path.glob("*.safetensors"))[-1]
    tensors = load_file(shard)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, shard, metadata={"format": "pt"})


def add_tokens(path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.add_tokens([f"extra{i}" for i in range(5)])
    tokenizer.save(str(path / "tokenizer.json"))


def drop_leading_underscore(path: Path) -> None:
    """What AutoTokenizer builds from tokenizer.model alone: no '▁' in front of a text."""
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.save(str(path / "tokenizer.json"))


def only_model_file(path: Path) -> None:
    (path / "tokenizer.json").rename(path / "tokenizer.model")


BROKEN: list[tuple[Callable[[Path], object], str]] = [
    (lambda p: (p / "config.json").unlink(), "has no config.json"),
    (lambda p: (p / "config.json").write_text("{"), "cannot be read as JSON"),
    (lambda p: (p / "config.json").write_text("[]"), "not an object"),
    (lambda p: edit_config(p, model_type="bert"), "'bert' model.*embeds and generates"),
    (lambda p: edit_config(p, architectures=["MistralModel"]), "no language-model head"),
    (lambda p: edit_config(p, vocab_size=None), "vocab_size"),
    (lambda p: edit_config(p, vocab_size=16000), "16,000.*do not belong together"),
    (remove_safetensors, "only pickled weights .*pytorch_model.bin.*refused"),
    (lambda p: sorted(p.glob("*.safetensors"))[1].unlink(), "model-00002-of-00003.safetensors of 3 shards missing"),
    (truncate_shard, "truncated or altered"),
    (cut_into_header, "truncated"),
    (drop_tensor, "1 tensors are missing"),
    (lambda p: edit_config(p, intermediate_size=128), "size mismatch|another shape|ignore_mismatched_sizes"),
    (add_tokens, "the tokenizer has 32,005 tokens"),
    (drop_leading_underscore, "the model was trained with"),
    (only_model_file, "no tokenizer.json"),
    (lambda p: (p / "tokenizer.json").write_text("nonsense"), "tokenizer cannot be loaded"),
]


@pytest.mark.parametrize(("break_it", "words"), BROKEN)
def test_a_broken_checkpoint_is_refused(copy: Path, break_it: Callable[[Path], object], words: str) -> None:
    break_it(copy)
    with pytest.raises(ModelLoadError, match=f"(?s){words}"):
        GritLM.from_pretrained(copy)


def test_a_model_trained_with_other_attention_is_refused(copy: Path) -> None:
    (copy / "grit_config.json").write_text(json.dumps({"attention": "cbcc"}))
    with pytest.raises(ModelLoadError, match=r"attention='cbcc'. It must be one of 'bbcc', 'cccc'"):
        GritLM(copy).load()


def test_an_encoder_only_checkpoint_is_refused(tmp_path: Path) -> None:
    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match="Encoder-only models cannot generate"):
        GritLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./missing", "one/two/three", "nameonly"])
def test_a_missing_path_is_named(name: str) -> None:
    with pytest.raises(ModelLoadError, match="no directory and no hub id"):
        GritLM.from_pretrained(name)


def test_a_hub_id_without_network_fails_with_the_cure() -> None:
    with pytest.raises(ModelLoadError, match=r"could not be fetched.*local directory"):
        GritLM.from_pretrained("GritLM/not-a-model", local_files_only=True)


def test_bad_device_and_dtype_are_named(tiny_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="device='nonsense'"):
        GritLM.from_pretrained(tiny_path, device="nonsense")
    with pytest.raises(ModelLoadError, match="dtype='float13'"):
        GritLM.from_pretrained(tiny_path, dtype="float13")


@pytest.mark.parametrize("kind", ["mistral", "mixtral", "llama", "qwen2", "qwen3"])
def test_every_supported_decoder_loads_without_remote_code(tmp_path: Path, kind: str) -> None:
    extra = {"num_local_experts": 4} if kind == "mixtral" else {"head_dim": 16} if kind == "qwen3" else {}
    grit = GritLM.from_pretrained(write_checkpoint(tmp_path / kind, kind, **extra))
    assert type(grit.lm).__module__.startswith(f"transformers.models.{kind}.")
    assert getattr(grit.lm.config, "sliding_window", None) is None
    assert grit.embed_documents(["a text"]).shape == (1, 64)
    assert len(grit.generate("a question", decoding=short()).token_ids) == 3


def test_rope_theta_at_top_level_is_honoured(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "a", rope_parameters={"rope_type": "default", "rope_theta": 777.0})
    assert json.loads((path / "config.json").read_text())["rope_theta"] == 777.0
    assert GritLM.from_pretrained(path).lm.config.rope_parameters["rope_theta"] == 777.0


def test_dtype_auto_takes_the_checkpoint_s_precision_where_it_is_native(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_checkpoint(tmp_path / "b")
    edit_config(path, torch_dtype="bfloat16")
    monkeypatch.setattr("grit_integrations.loading.weights._said", set())
    monkeypatch.setattr("grit_integrations.loading.weights.native_bfloat16", lambda: True)
    assert GritLM.from_pretrained(path, device="cpu").lm.dtype == torch.bfloat16
    monkeypatch.setattr("grit_integrations.loading.weights.native_bfloat16", lambda: False)
    for _ in range(2):
        edit_config(path, touched=str(_))
        assert GritLM.from_pretrained(path, device="cpu").lm.dtype == torch.float32
    assert [record.message for record in caplog.records if "float32" in record.message].__len__() == 1


def test_fingerprint_follows_weights_config_and_tokenizer(copy: Path, tiny_path: Path) -> None:
    original = find_checkpoint(tiny_path).fingerprint
    assert find_checkpoint(copy).fingerprint == original  # the place does not matter
    shard = sorted(copy.glob("*.safetensors"))[0]
    tensors = load_file(shard)
    tensors[sorted(tensors)[0]].view(-1)[0] += 1
    save_file(tensors, shard, metadata={"format": "pt"})
    assert find_checkpoint(copy).fingerprint != original
    edit_config(shutil.copytree(tiny_path, copy.parent / "c"), rope_theta=5.0)
    assert find_checkpoint(copy.parent / "c").fingerprint != original


def test_projection_head_changes_the_dimension(tiny_path: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    weight, bias = torch.randn(24, 64), torch.randn(24)
    save_file({"weight": weight, "bias": bias}, tmp_path / "head.safetensors")
    grit = GritLM.from_pretrained(tiny_path, embedding_head=tmp_path / "head.safetensors")
    assert grit.dim == 24
    assert grit.fingerprint != GritLM(tiny_path).fingerprint
    plain = GritLM.from_pretrained(tiny_path, normalize=False).embed_documents(["some text"])[0]
    expected = torch.nn.functional.normalize(weight @ torch.tensor(plain) + bias, dim=0)
    assert torch.allclose(torch.tensor(grit.embed_documents(["some text"])[0]), expected, atol=1e-5)


def test_projection_head_must_be_safetensors_of_the_right_width(tiny_path: Path, tmp_path: Path) -> None:
    (tmp_path / "head.bin").write_bytes(b"pickle")
    save_file({"weight": torch.zeros(8, 63)}, tmp_path / "narrow.safetensors")
    with pytest.raises(ModelLoadError, match="not a safetensors file"):
        GritLM.from_pretrained(tiny_path, embedding_head=tmp_path / "head.bin")
    with pytest.raises(ModelLoadError, match=r"needs \(dim, 64\)"):
        GritLM.from_pretrained(tiny_path, embedding_head=tmp_path / "narrow.safetensors")


def test_a_tokenizer_that_merges_across_newlines_is_refused(copy: Path) -> None:
    edit_config(copy, model_type="llama", architectures=["LlamaForCausalLM"])
    vocabulary = {piece: index for index, piece in enumerate(["a", "\n", "\na", "</s>", "<", "|", ">", "h"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("\n", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("never-found", "isolated")
    tokenizer.save(str(copy / "tokenizer.json"))
    with pytest.raises(ModelLoadError, match="merges a newline"):
        GritLM.from_pretrained(copy)


def short() -> object:
    from grit_integrations import Decoding

    return Decoding(max_new_tokens=3)


def test_a_device_map_goes_to_transformers(tiny: GritLM, tiny_path: Path) -> None:
    placed = GritLM.from_pretrained(tiny_path, device_map={"": "cpu"})
    assert placed.lm is not tiny.lm
    assert (placed.embed_documents(["text"]) == tiny.embed_documents(["text"])).all()


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "/", "a/b.safetensors", "../b.safetensors", "config.json", "x" * 300 + ".safetensors", 5, None],
)
def test_an_index_names_files_of_its_own_folder(tiny_path: Path, tmp_path: Path, name: object) -> None:
    copy = Path(shutil.copytree(tiny_path, tmp_path / "model"))
    index = copy / "model.safetensors.index.json"
    found = json.loads(index.read_text())
    found["weight_map"][next(iter(found["weight_map"]))] = name
    index.write_text(json.dumps(found))
    with pytest.raises(ModelLoadError, match="does not say which tensor is in which file"):
        GritLM.from_pretrained(copy)


@pytest.mark.parametrize("name", ["a\0b.safetensors", "\ud800.safetensors", " .safetensors"])
def test_an_index_may_name_what_is_not_there(tiny_path: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(tiny_path, tmp_path / "model"))
    index = copy / "model.safetensors.index.json"
    found = json.loads(index.read_text())
    found["weight_map"][next(iter(found["weight_map"]))] = name
    index.write_text(json.dumps(found))
    with pytest.raises(ModelLoadError, match="shards missing"):
        GritLM.from_pretrained(copy)
