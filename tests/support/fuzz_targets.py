"""What a damaged file may lead to: bytes in, nothing out, and any exception but ours is a fault.

Hypothesis drives these in the suite, `tests/fuzz/` by coverage where atheris installs (`make extended`).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from store_child import make_block, same
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import MistralConfig, MistralForCausalLM

from grit_integrations import CacheError, GritError, GritLM, KVCacheStore, OptionError, unload_all
from grit_integrations.prompts.formats import MARKERS

KEYS = ("ab" * 20, "cd" * 20)


class Bytes:
    """Bytes that are taken one decision after the other; when none are left, every decision is the first."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def number(self, below: int) -> int:
        """Take a number from 0 up."""
        size = max(1, (max(below - 1, 1).bit_length() + 7) // 8)
        return int.from_bytes(self.take(size), "big") % max(below, 1)

    def take(self, size: int) -> bytes:
        """Take at most `size` bytes."""
        taken, self._data = self._data[:size], self._data[size:]
        return taken

    def rest(self) -> bytes:
        """Take all that is left."""
        return self.take(len(self._data))


def damaged(good: bytes, how: Bytes) -> bytes:
    """Return `good` with a run of it overwritten, cut out, repeated or put elsewhere, or with other bytes at all."""
    kind, start, size = how.number(6), how.number(len(good) + 1), how.number(64) + 1
    new = how.rest() or b"\xff" * size
    if kind == 0:
        return good[:start] + new + good[start + len(new) :]
    if kind == 1:
        return good[:start]
    if kind == 2:
        return good[:start] + good[start + size :]
    if kind == 3:
        return good[: start + size] + good[start:]
    if kind == 4:
        return good[:start] + new + good[start:]
    return new


def _json_damaged(good: bytes, how: Bytes) -> bytes:
    """Return a JSON file whose one value, anywhere in it, is another."""
    values = [None, True, 0, -1, 1.5, 10**12, "", "x", [], {}, [[]], {"a": {}}, "mistral", float("nan"), "../x", 2**63]
    tree = json.loads(good)
    where = tree
    for _ in range(how.number(4)):
        below = [
            value for value in (where.values() if isinstance(where, dict) else where) if isinstance(value, dict | list)
        ]
        if not below:
            break
        where = below[how.number(len(below))]
    keys = list(where) if isinstance(where, dict) else list(range(len(where)))
    if not keys:
        return damaged(good, how)
    key, value = keys[how.number(len(keys))], values[how.number(len(values))]
    if how.number(4) == 3:
        del where[key]
    else:
        where[key] = value
    return json.dumps(tree).encode()


# Checkpoints


@cache
def checkpoint() -> Path:
    """A checkpoint of a few kilobytes, with every kind of file that one may have."""
    path = Path(tempfile.mkdtemp()) / "model"
    torch.manual_seed(0)
    size = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = MistralConfig(**size, num_hidden_layers=1, vocab_size=300, max_position_embeddings=256)
    MistralForCausalLM(config).save_pretrained(path, max_shard_size=6_000)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", *MARKERS, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>", *MARKERS])
    tokenizer.save(str(path / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    (path / "tokenizer_config.json").write_text(json.dumps(about))
    (path / "grit_config.json").write_text(json.dumps({"pooling": "mean", "reranking_order": "query-first"}))
    assert GritLM(path).embed_queries(["hi"]).shape == (1, 8)
    unload_all()
    return path


def checkpoint_case(data: bytes) -> str:
    """Damage one file of a checkpoint and use it: a vector, or one of our errors. Returns what happened."""
    how = Bytes(data)
    files = sorted(path.name for path in checkpoint().iterdir())
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(checkpoint(), Path(folder) / "model"))
        victim = copy / files[how.number(len(files))]
        good = victim.read_bytes()
        change = _json_damaged if victim.suffix == ".json" and how.number(2) else damaged
        victim.write_bytes(change(good, how))
        try:
            grit = GritLM(copy)
            vectors = grit.embed_queries(["hi"])
            assert vectors.dtype == np.float32 and vectors.shape == (1, grit.dim)
            return "used"
        except GritError as error:
            return type(error).__name__
        finally:
            unload_all()


# Stores


@cache
def store() -> Path:
    """A store of two blocks."""
    path = Path(tempfile.mkdtemp()) / "kv"
    with KVCacheStore(path) as filled:
        for key in KEYS:
            filled.put(key, make_block(key))
    return path


def _in_place(victim: Path, how: Bytes) -> None:
    """Put something that is no file where one was."""
    victim.unlink()
    places: list[Callable[[], object]] = [
        lambda: os.mkfifo(victim),
        victim.mkdir,
        lambda: victim.symlink_to(victim.parent),
        lambda: victim.symlink_to("/dev/zero"),
        lambda: victim.symlink_to(victim),
        lambda: None,
    ]
    places[how.number(len(places))]()


def store_case(data: bytes) -> None:
    """Damage one file of a store and use it: the blocks that were kept or none, and no error but ours."""
    how = Bytes(data)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(store(), Path(folder) / "kv"))
        files = sorted(path for path in copy.rglob("*") if path.is_file())
        victim = files[how.number(len(files))]
        if how.number(8) == 7:
            _in_place(victim, how)
        else:
            victim.write_bytes(damaged(victim.read_bytes(), how))
        try:
            with KVCacheStore(copy, ram_bytes=0) as kept:
                _use(kept)
        except (CacheError, OptionError):
            pass


def _use(kept: KVCacheStore) -> None:
    for key in KEYS:
        found = kept.get(key)
        assert found is None or same(found, make_block(key))
    kept.contains(KEYS)
    kept.stats()
    kept.put(KEYS[0], make_block(KEYS[0]))
    kept.flush()
    kept.verify(progress=False)
    again = kept.get(KEYS[0])
    assert again is None or same(again, make_block(KEYS[0]))
    kept.delete([KEYS[0]])
    kept.clear()
