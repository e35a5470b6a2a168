"""KVBlock: cutting, joining, moving and rounding, checked against a real model, a hand-written RoPE and arithmetic."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from grit_integrations import Decoding, GritLM
from grit_integrations.engine.encoder import bidirectional_view
from grit_integrations.errors import CacheCorruptError, CacheError
from grit_integrations.kv.blocks import KVBlock
from grit_integrations.kv.cache import PreallocatedLayer, preallocated_cache
from grit_integrations.kv.rope import SHIFTABLE, Rope

LAYERS, HEADS, DIM = 3, 2, 16
IDS = (5, 9, 100, 7, 7, 3, 250, 11)

SHIFTABLE_KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64},
}
OTHER_KINDS: dict[str, dict[str, Any]] = {
    "dynamic": {"factor": 2.0},
    "longrope": {
        "factor": 2.0,
        "original_max_position_embeddings": 64,
        "short_factor": [1.0] * (DIM // 2),
        "long_factor": [2.0] * (DIM // 2),
    },
}


def model(kind: str, classes: tuple[Any, Any] = (MistralConfig, MistralForCausalLM)) -> Any:
    """The decoder of a random model whose RoPE is of a kind."""
    config_class, model_class = classes
    config = config_class(
        hidden_size=4 * DIM,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=HEADS,
        vocab_size=300,
        max_position_embeddings=512,
        sliding_window=None,
        initializer_range=0.2,
        rope_parameters={"rope_type": kind, "rope_theta": 10_000.0, **SHIFTABLE_KINDS.get(kind, OTHER_KINDS.get(kind))},
    )
    torch.manual_seed(3)
    return model_class(config).eval().get_decoder()


@torch.inference_mode()
def read_at(decoder: Any, position: int, ids: Sequence[int] = IDS) -> KVBlock:
    """Compute a block whose first token stands at `position`."""
    cache = preallocated_cache([torch.device("cpu")] * LAYERS, torch.float32, len(ids))
    positions = torch.arange(position, position + len(ids))[None]
    bidirectional_view(decoder)(
        input_ids=torch.tensor([ids]), position_ids=positions, past_key_values=cache, use_cache=True
    )
    return KVBlock.from_cache(cache, 0, ids, position=position)


def random_block(tokens: int = 6, position: int = 3, dtype: torch.dtype = torch.float32, seed: int = 0) -> KVBlock:
    numbers = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(LAYERS, HEADS, tokens, DIM, generator=numbers).to(dtype) for _ in range(2))
    return KVBlock(keys, values, tuple(range(tokens)), position, dtype)


def same(one: KVBlock, other: KVBlock) -> bool:
    mine, others = one.tensors(), other.tensors()
    return (
        mine.keys() == others.keys()
        and all(mine[name].dtype == others[name].dtype and torch.equal(mine[name], others[name]) for name in mine)
        and (one.position, one.dtype) == (other.position, other.dtype)
    )


def filled(*blocks: KVBlock, capacity: int = 2) -> Any:
    cache = preallocated_cache([torch.device("cpu")] * LAYERS, blocks[0].dtype, capacity)
    for block in blocks:
        block.append_to(cache)
    return cache


# Moving


@pytest.mark.parametrize("position", [1, 37, 400])
@pytest.mark.parametrize("kind", SHIFTABLE_KINDS)
def test_a_moved_block_equals_one_computed_there(kind: str, position: int) -> None:
    decoder = model(kind)
    rope = Rope.of(decoder)
    assert rope.kind == kind
    moved, computed = read_at(decoder, 0).shifted(position, rope), read_at(decoder, position)
    assert moved.position == position and moved.token_ids == IDS
    assert float((moved.keys - computed.keys).abs().max()) < 1e-4
    assert float((moved.values - computed.values).abs().max()) < 1e-4
    assert float((moved.keys - read_at(decoder, 0).keys).abs().max()) > 0.1  # or nothing was tested


def test_llama_s_own_class_moves_too() -> None:
    decoder = model("llama3", (LlamaConfig, LlamaForCausalLM))
    moved = read_at(decoder, 20).shifted(90, Rope.of(decoder))
    assert float((moved.keys - read_at(decoder, 90).keys).abs().max()) < 1e-4


def by_hand(keys: Tensor, by: int, base: float = 10_000.0) -> Tensor:
    """RoPE as the paper has it (RoFormer, 3.2.2): two channels are one complex number, turned by its own angle."""
    half = keys.shape[-1] // 2
    pairs = torch.complex(keys[..., :half].double(), keys[..., half:].double())
    angles = torch.tensor([by * base ** (-2 * index / keys.shape[-1]) for index in range(half)], dtype=torch.float64)
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=-1).float()


@pytest.mark.parametrize("by", [-3, 1, 17, 1000])
def test_a_move_is_the_paper_s_rotation(by: int) -> None:
    block = random_block()
    moved = block.shifted(block.position + by, Rope.of(model("default")))
    assert torch.allclose(moved.keys, by_hand(block.keys, by), atol=2e-4 if abs(by) > 100 else 1e-5)
    assert torch.equal(moved.values, block.values)


@given(st.integers(0, 2000), st.integers(0, 2000))
def test_there_and_back_and_by_way_of_another_place(first: int, second: int) -> None:
    rope = Rope("default", 10_000.0 ** (-torch.arange(0, DIM, 2) / DIM))
    block = random_block()
    there = block.shifted(first, rope)
    assert float((there.shifted(block.position, rope).keys - block.keys).abs().max()) < 1e-5
    assert float((there.shifted(second, rope).keys - block.shifted(second, rope).keys).abs().max()) < 2e-3
    assert block.shifted(block.position, rope) is block
    norms = [keys.keys.norm(dim=-1) for keys in (block, there)]
    assert torch.allclose(*norms, rtol=1e-5)


def test_a_move_leaves_channels_without_rotation_and_the_precision_alone() -> None:
    rope = Rope("default", torch.tensor([1.0, 0.1]))  # 4 of 16 channels rotate
    block = random_block(dtype=torch.bfloat16)
    moved = block.shifted(40, rope)
    assert moved.keys.dtype == torch.bfloat16
    assert torch.equal(moved.keys[..., 4:], block.keys[..., 4:])
    exact = rope.rotate(block.keys.float(), 40 - block.position)
    assert torch.equal(moved.keys, exact.to(torch.bfloat16))  # rotated in float32, rounded once


def test_a_move_changes_nothing_that_it_was_given() -> None:
    block = random_block()
    before = block.keys.clone()
    block.shifted(99, Rope.of(model("default")))
    assert torch.equal(block.keys, before) and block.position == 3


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_kinds_that_change_with_the_length_are_refused(kind: str) -> None:
    rope = Rope.of(model(kind))
    assert kind not in SHIFTABLE
    for position in (0, 50):
        with pytest.raises(CacheError, match=rf"{kind}.*yarn.*caching='prefix'"):
            random_block().shifted(position, rope)


def test_a_model_of_such_a_kind_answers_in_the_modes_that_move_nothing(tiny_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "model"
    shutil.copytree(tiny_path, path)
    config = json.loads((path / "config.json").read_text())
    config["rope_scaling"] = {"rope_type": "dynamic", "factor": 2.0}
    (path / "config.json").write_text(json.dumps(config))
    grit = GritLM.from_pretrained(path)
    short, documents = Decoding(max_new_tokens=2), ["Stars burn hydrogen.", "The heart pumps blood."]
    with pytest.raises(CacheError, match="dynamic"):
        grit.generate("What burns?", documents, caching="doc", decoding=short)
    assert grit.generate("What burns?", documents, caching="prefix", decoding=short).token_ids


# Cutting and joining


@given(st.integers(1, 9), st.data())
def test_pieces_join_to_the_whole(tokens: int, data: st.DataObject) -> None:
    block = random_block(tokens)
    cuts = sorted(data.draw(st.lists(st.integers(0, tokens), max_size=3)))
    pieces = [block.slice(start, stop) for start, stop in zip([0, *cuts], [*cuts, tokens], strict=True)]
    assert [piece.position for piece in pieces] == [3 + start for start in [0, *cuts]]
    assert torch.equal(torch.cat([piece.keys for piece in pieces], dim=2), block.keys)
    assert torch.equal(torch.cat([piece.values for piece in pieces], dim=2), block.values)
    assert tuple(token for piece in pieces for token in piece.token_ids) == block.token_ids


def test_a_slice_of_rounded_rows_is_what_the_whole_gives() -> None:
    block = random_block().quantised()
    assert same(block.slice(2, 5).dequantised(), block.dequantised().slice(2, 5))
    assert block.slice(2, 5).keys.data_ptr() == block.keys[:, :, 2:].data_ptr()  # a view


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, 7), (4, 3)])
def test_rows_that_are_not_there_are_refused(start: int, stop: int) -> None:
    with pytest.raises(IndexError, match="6 tokens"):
        random_block().slice(start, stop)


# Into and out of a request's cache


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cache_gives_back_what_was_written(dtype: torch.dtype) -> None:
    one, other = random_block(4, 0, dtype, seed=1), random_block(7, 4, dtype, seed=2)
    cache = filled(one, other)
    assert cache.get_seq_length() == 11
    assert same(KVBlock.from_cache(cache, 0, one.token_ids, position=0), one)
    assert same(KVBlock.from_cache(cache, 4, other.token_ids, position=4), other)
    assert same(KVBlock.from_cache(cache, 5, other.token_ids[1:4], position=5), other.slice(1, 4))


def test_a_copy_does_not_follow_the_cache() -> None:
    cache = filled(random_block(4, 0))
    block = KVBlock.from_cache(cache, 0, range(4), position=0)
    cache.layers[0].keys.zero_()
    assert same(block, random_block(4, 0).slice(0, 4))


def test_a_rewound_cache_is_written_over() -> None:
    cache = filled(random_block(4, 0, seed=1), random_block(3, 4, seed=2))
    for layer in cache.layers:
        assert isinstance(layer, PreallocatedLayer)
        layer.rewind(4)
    random_block(2, 4, seed=3).append_to(cache)
    assert cache.get_seq_length() == 6
    assert same(KVBlock.from_cache(cache, 4, range(2), position=4), random_block(2, 4, seed=3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rounded_block_enters_a_cache_as_it_dequantises(dtype: torch.dtype) -> None:
    block = random_block(5, 0, dtype).quantised()
    assert same(KVBlock.from_cache(filled(block), 0, block.token_ids, position=0), block.dequantised())


# int8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(seed=st.integers(0, 100), size=st.sampled_from([1e-6, 1.0, 300.0]))
def test_rounding_is_off_by_half_a_step_at_most(dtype: torch.dtype, seed: int, size: float) -> None:
    exact = random_block(seed=seed, dtype=dtype)
    exact = KVBlock(exact.keys * size, exact.values * size, exact.token_ids, 0, dtype)
    block = exact.quantised()
    assert block.precision == "int8" and block.keys.dtype == block.values.dtype == torch.int8
    assert block.key_scales is not None and block.value_scales is not None
    assert block.key_scales.shape == (LAYERS, HEADS, 1, DIM) and block.value_scales.shape == (LAYERS, HEADS, 6, 1)
    for wanted, found, scales in (
        (exact.keys, block.keys, block.key_scales),
        (exact.values, block.values, block.value_scales),
    ):
        error = (wanted.double() - found.double() * scales.double()).abs()
        assert bool((error <= scales.double() * (0.5 + 1e-4)).all())  # float32's own rounding is the rest
    back = block.dequantised()
    assert back.precision == "native" and back.keys.dtype == back.values.dtype == dtype


def test_rounding_once_is_rounding_for_good() -> None:
    block = random_block().quantised()
    assert block.quantised() is block
    assert same(block.dequantised().quantised().dequantised(), block.dequantised())
    assert random_block().dequantised().precision == "native"
    assert same(
        block.shifted(50, Rope.of(model("default"))), block.dequantised().shifted(50, Rope.of(model("default")))
    )


def test_a_block_of_zeros_stays_one() -> None:
    zeros = torch.zeros(LAYERS, HEADS, 4, DIM)
    block = KVBlock(zeros, zeros, tuple(range(4)), 0, torch.float32)
    assert same(block.quantised().dequantised(), block)


def test_bytes_are_those_of_the_tensors() -> None:
    block = random_block(6)
    states = 2 * LAYERS * HEADS * 6 * DIM
    assert block.nbytes == 4 * states + 4 * 6
    scales = 4 * LAYERS * HEADS * (DIM + 6)
    assert block.quantised().nbytes == states + 4 * 6 + scales


# Files


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rounded", [False, True])
def test_tensors_and_metadata_make_the_block_again(dtype: torch.dtype, rounded: bool) -> None:
    block = random_block(dtype=dtype).quantised() if rounded else random_block(dtype=dtype)
    assert all(isinstance(value, str) for value in block.metadata().values())
    assert same(KVBlock.from_tensors(block.tensors(), block.metadata()), block)


def corrupt(tensors: dict[str, Tensor], metadata: dict[str, str], how: str) -> None:
    match how:
        case "no keys":
            del tensors["keys"]
        case "no ids":
            del tensors["token_ids"]
        case "fewer ids":
            tensors["token_ids"] = tensors["token_ids"][:-1]
        case "no tokens":
            for name in ("keys", "values"):
                tensors[name] = tensors[name][:, :, :0]
            tensors["token_ids"] = tensors["token_ids"][:0]
            tensors.pop("value_scales", None)
            tensors.pop("key_scales", None)
        case "other shapes":
            tensors["values"] = tensors["values"][:, :1]
        case "three dimensions":
            tensors["keys"], tensors["values"] = tensors["keys"][0], tensors["values"][0]
        case "other precision":
            tensors["keys"] = tensors["keys"].double()
        case "one scale":
            tensors["key_scales"] = torch.ones(LAYERS, HEADS, 1, DIM)
            tensors.pop("value_scales", None)
        case "wrong scales":
            tensors["key_scales"] = torch.ones(LAYERS, HEADS, 1, DIM - 1)
        case "no position":
            del metadata["position"]
        case "a position that is none":
            metadata["position"] = "first"
        case "unknown precision":
            metadata["dtype"] = "float8"


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize(
    "how",
    [
        *("no keys", "no ids", "fewer ids", "no tokens", "other shapes", "three dimensions", "other precision"),
        *("one scale", "wrong scales", "no position", "a position that is none", "unknown precision"),
    ],
)
def test_what_contradicts_itself_is_corrupt(how: str, rounded: bool) -> None:
    block = random_block().quantised() if rounded else random_block()
    tensors, metadata = block.tensors(), block.metadata()
    corrupt(tensors, metadata, how)
    with pytest.raises(CacheCorruptError, match="computed again"):
        KVBlock.from_tensors(tensors, metadata)
