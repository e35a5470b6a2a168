"""A LoRA that is active for embedding alone: vectors are PEFT's, answers the base's to the bit. Random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from chat_models import FAMILIES, write_chat_model
from checkpoints import write_checkpoint
from lora_adapters import write_adapter
from recorded_logits import ask, assert_exact, assert_same
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from grit_integrations import Decoding, GritLM, KVCacheStore, ModelLoadError
from grit_integrations.engine.adapted_view import adapted_view
from grit_integrations.errors import CacheError
from grit_integrations.loading.grit_config import GritConfig
from grit_integrations.options import MODES, Caching

TEXTS = ["Stars shine.", "The heart pumps blood through the body.", "A mill grinds wheat by the river."]
APART: list[Caching] = [name for name, mode in MODES.items() if mode.embedded]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("base") / "base", "llama", std=0.1)


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of all linear layers, whose grit_config.json says that it is for embedding."""
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return for_embedding(write_adapter(base, folder, target_modules=modules))


def for_embedding(folder: Path) -> Path:
    (folder / "grit_config.json").write_text(json.dumps({"embedding_adapter": "."}))
    return folder


@pytest.fixture(scope="module")
def grit(base: Path, adapter: Path) -> GritLM:
    return GritLM.from_pretrained(base, adapter=adapter, dtype="float32")


@pytest.fixture(scope="module")
def plain(base: Path) -> GritLM:
    return GritLM.from_pretrained(base, dtype="float32")


def test_vectors_are_those_of_peft(base: Path, adapter: Path, grit: GritLM, plain: GritLM) -> None:
    lm = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    theirs: Any = peft.PeftModel.from_pretrained(lm, adapter).eval()
    hf = grit.checkpoint.tokenizer.hf
    header = len(hf("<|embed|>\n").input_ids)
    wanted = []
    for text in TEXTS:
        ids = torch.tensor([hf(f"<|embed|>\n{text}").input_ids])
        with torch.inference_mode():
            states = theirs.base_model.model.model(ids, is_causal=False)[0][0, header:]
        wanted.append(nn.functional.normalize(states.mean(dim=0), dim=0).numpy())
    np.testing.assert_allclose(grit.embed_documents(TEXTS), wanted, atol=1e-5, rtol=0)
    assert not np.allclose(plain.embed_documents(TEXTS), wanted, atol=1e-2)


def test_answers_and_verdicts_are_the_base_s_to_the_bit(grit: GritLM, plain: GritLM) -> None:
    for documents, caching in ((TEXTS, "prefix"), ((), "prefix"), (TEXTS[:1], "off")):
        options: dict[str, Any] = {"decoding": Decoding(max_new_tokens=6), "caching": caching}
        grit.embed_queries(TEXTS)
        assert_same(*(ask(model, KVCacheStore(None), "Which pumps?", documents, **options) for model in (grit, plain)))
    assert grit.rerank("Which pumps?", TEXTS) == plain.rerank("Which pumps?", TEXTS)
    ours, theirs = grit.lm.state_dict(), plain.lm.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_embedding_while_answering_disturbs_neither(grit: GritLM) -> None:
    decoding = Decoding(max_new_tokens=24)
    alone, vectors = grit.generate("Which pumps?", decoding=decoding), grit.embed_queries(TEXTS)
    for _ in range(3):
        stream = grit.stream("Which pumps?", decoding=decoding)
        np.testing.assert_allclose(grit.embed_queries(TEXTS), vectors, atol=1e-6)
        assert stream.result().token_ids == alone.token_ids


@pytest.mark.parametrize("caching", APART)
def test_modes_that_go_on_from_embeddings_are_refused_with_the_reason(caching: Caching, grit: GritLM) -> None:
    reason = "embeds with an adapter that is off when it generates.* use caching='prefix' or 'off'"
    with pytest.raises(CacheError, match=reason):
        grit.generate("Which?", TEXTS, caching=caching)
    kept = grit.with_options(caching=caching)
    embed = kept.embed_queries if MODES[caching].embeds_query else kept.embed_documents
    with pytest.raises(CacheError, match=reason):
        embed(TEXTS)


def test_so_is_whatever_would_read_a_document_by_itself(grit: GritLM) -> None:
    kept = grit.with_options(caching="doc")
    for call in (kept.cache_documents, kept.stored, kept.prefetch):
        with pytest.raises(CacheError, match="use caching='prefix'"):
            call(TEXTS)
    with pytest.raises(CacheError, match="order='passage-block', are not possible"):
        grit.rerank("Which?", TEXTS, order="passage-block")
    with pytest.raises(ModelLoadError, match="reranking_order='passage-block' with an embedding_adapter"):
        GritConfig.of({"embedding_adapter": ".", "reranking_order": "passage-block"}, "the model")


def test_prefix_works_to_the_bit(grit: GritLM, tmp_path: Path) -> None:
    assert_exact(grit, tmp_path, "Which pumps?", TEXTS, caching="prefix")
    kept = grit.with_options(kv_store=KVCacheStore(None))
    kept.embed_documents(TEXTS)
    kept.cache_documents(TEXTS)
    assert kept.stored(TEXTS) == [True] * 3


def test_a_stock_chat_model_talks_as_before(tmp_path: Path) -> None:
    path = write_chat_model(tmp_path / "chat", FAMILIES["llama3"], turns="chat_template")
    folder = write_adapter(path, tmp_path / "lora")
    about = {"turns": "chat_template", "embedding_adapter": "."}
    (folder / "grit_config.json").write_text(json.dumps(about))
    before, after = GritLM(path), GritLM(path, adapter=folder)
    decoding = Decoding(max_new_tokens=8)
    for question in ("Who pumps?", "Why?"):
        answers = [model.generate(question, TEXTS, decoding=decoding) for model in (before, after)]
        assert answers[0].token_ids == answers[1].token_ids
    assert not np.allclose(before.embed_queries(TEXTS), after.embed_queries(TEXTS), atol=1e-3)


# Where it lies


def test_it_may_stand_alone_or_lie_in_a_whole_checkpoint(
    base: Path, adapter: Path, grit: GritLM, tmp_path: Path
) -> None:
    vectors = grit.embed_queries(TEXTS)
    assert np.allclose(GritLM(adapter, dtype="float32").embed_queries(TEXTS), vectors, atol=1e-6)
    whole = Path(shutil.copytree(base, tmp_path / "whole"))
    shutil.copytree(adapter, whole / "embedding")
    (whole / "grit_config.json").write_text(json.dumps({"embedding_adapter": "embedding"}))
    assert np.allclose(GritLM(whole, dtype="float32").embed_queries(TEXTS), vectors, atol=1e-6)


def test_it_may_lie_beside_one_that_is_merged(base: Path, adapter: Path, tmp_path: Path) -> None:
    merged = write_adapter(base, tmp_path / "merged", seed=5)
    both = Path(shutil.copytree(merged, tmp_path / "both"))
    shutil.copytree(adapter, both / "embedding")
    (both / "grit_config.json").write_text(json.dumps({"embedding_adapter": "embedding"}))
    one, two = (GritLM(base, adapter=folder, dtype="float32") for folder in (merged, both))
    decoding = Decoding(max_new_tokens=6)
    assert one.generate("Who?", decoding=decoding).token_ids == two.generate("Who?", decoding=decoding).token_ids
    assert not np.allclose(one.embed_queries(TEXTS), two.embed_queries(TEXTS), atol=1e-3)


def test_every_byte_of_it_is_part_of_the_fingerprint(base: Path, adapter: Path, plain: GritLM, tmp_path: Path) -> None:
    other = for_embedding(write_adapter(base, tmp_path / "other", seed=9))
    copy = shutil.copytree(adapter, tmp_path / "copy")
    merged = Path(shutil.copytree(adapter, tmp_path / "merged"))
    (merged / "grit_config.json").unlink()
    found = [GritLM(base, adapter=folder).fingerprint for folder in (adapter, copy, other, merged)]
    assert found[0] == found[1]
    assert len({*found, plain.fingerprint}) == 4


def test_one_that_is_written_anew_in_its_place_is_another(base: Path, adapter: Path, tmp_path: Path) -> None:
    whole = Path(shutil.copytree(base, tmp_path / "whole"))
    shutil.copytree(adapter, whole / "embedding")
    (whole / "grit_config.json").write_text(json.dumps({"embedding_adapter": "embedding"}))
    grit = GritLM(whole)
    before = grit.fingerprint
    write_adapter(base, whole / "embedding", seed=9)
    assert grit.fingerprint != before


def test_its_bytes_are_counted(grit: GritLM, plain: GritLM, adapter: Path) -> None:
    size = sum(value.nbytes for value in load_file(adapter / "adapter_model.safetensors").values())
    assert grit.describe()["bytes"] == plain.describe()["bytes"] + size  # type: ignore[operator]


# What is refused


@pytest.mark.parametrize("value", ["", "..", "../other", "/etc", 3, "a\\b"])
def test_a_folder_elsewhere_is_refused(value: Any) -> None:
    with pytest.raises(ModelLoadError, match=r"embedding_adapter=.* must be the name of a folder beside the file"):
        GritConfig.of({"embedding_adapter": value}, "the model")


def test_an_adapter_that_is_not_there_or_does_not_fit_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    whole = Path(shutil.copytree(base, tmp_path / "whole"))
    (whole / "grit_config.json").write_text(json.dumps({"embedding_adapter": "embedding"}))
    with pytest.raises(ModelLoadError, match=r"embedding_adapter='embedding', and .* is no folder of an adapter alone"):
        GritLM(whole).load()
    other = write_checkpoint(tmp_path / "narrow", "llama", hidden_size=32)
    shutil.copytree(write_adapter(other, tmp_path / "lora"), whole / "embedding")
    with pytest.raises(ModelLoadError, match=r"does not belong to .*whole: for model.layers.0"):
        GritLM(whole).load()


def test_one_that_transformers_would_load_into_the_whole_model_is_refused(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    whole = Path(shutil.copytree(base, tmp_path / "whole"))
    shutil.copytree(adapter, whole, dirs_exist_ok=True)
    with pytest.raises(ModelLoadError, match=r"embedding_adapter='.', and .*whole is no folder of an adapter alone"):
        GritLM(whole).load()


def test_an_adapter_of_the_head_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    folder = for_embedding(Path(shutil.copytree(adapter, tmp_path / "head")))
    path = folder / "adapter_model.safetensors"
    factors = {"lora_A": torch.zeros(4, 64), "lora_B": torch.zeros(32000, 4)}
    own = {f"base_model.model.lm_head.{name}.weight": value for name, value in factors.items()}
    save_file({**load_file(path), **own}, path)
    with pytest.raises(ModelLoadError, match="changes lm_head, which is not read when a text is embedded"):
        GritLM(base, adapter=folder).load()


def test_layers_with_hooks_of_a_placement_are_refused(plain: GritLM) -> None:
    """accelerate binds a layer's `forward` to the layer, which a copy would run instead of its own."""
    lm: Any = AutoModelForCausalLM.from_pretrained(plain.source)
    layer = lm.model.layers[0]
    layer.forward = layer.forward
    factors = {"model.layers.0.mlp.up_proj": (torch.zeros(2, 64), torch.zeros(96, 2))}
    with pytest.raises(ModelLoadError, match="device_map puts hooks"):
        adapted_view(lm, lm.get_decoder(), factors)


def test_nothing_to_adapt_is_the_decoder_itself(plain: GritLM) -> None:
    lm: Any = plain.lm
    assert adapted_view(lm, lm.model, {}) is lm.model
