"""Whatever happens to a store, the answer is what it would have been without one. Random weights."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints import write_checkpoint

from grit_integrations import ContextOverflowError, Decoding, EmptyTextError, GritLM, KVCacheStore
from grit_integrations.options import Caching
from grit_integrations.results import Generation

DOCUMENTS = ["The heart pumps blood through the vessels of the body. " * 12, "Stars burn hydrogen for ages. " * 15]
DECODING = Decoding(max_new_tokens=6, logprobs=3)
MODES: tuple[Caching, ...] = ("prefix", "doc")
Fault = Callable[[Path], Any]


@pytest.fixture
def grit(tiny_path: Path) -> GritLM:
    return GritLM(tiny_path)


def answer(grit: GritLM, store: KVCacheStore, mode: Caching, documents: list[str] | None = None) -> Generation:
    grit = grit.with_options(kv_store=store)
    return grit.generate("What burns?", DOCUMENTS if documents is None else documents, caching=mode, decoding=DECODING)


def without_store(grit: GritLM, mode: Caching, documents: list[str] | None = None) -> Generation:
    return answer(grit, KVCacheStore(None), mode, documents)


def same(one: Generation, other: Generation) -> bool:
    return one.token_ids == other.token_ids and one.logprobs == other.logprobs


def filled(grit: GritLM, path: Path) -> None:
    with KVCacheStore(path) as store:
        for mode in MODES:
            answer(grit, store, mode)


def blocks(path: Path) -> list[Path]:
    return sorted(path.rglob("*.safetensors"))


def flip_a_bit(path: Path) -> None:
    for file in blocks(path):
        data = bytearray(file.read_bytes())
        data[random.Random(0).randrange(len(data))] ^= 4
        file.write_bytes(data)


def truncate(path: Path) -> None:
    for file in blocks(path):
        os.truncate(file, file.stat().st_size // 2)


def exchange(path: Path) -> None:
    """Give every block the content of its neighbour."""
    files = blocks(path)
    contents = [file.read_bytes() for file in files]
    for file, content in zip(files, [*contents[1:], contents[0]], strict=True):
        file.write_bytes(content)


FAULTS: dict[str, Fault] = {
    "flipped bits": flip_a_bit,
    "truncated blocks": truncate,
    "exchanged blocks": exchange,
    "an index without files": lambda path: [file.unlink() for file in blocks(path)],
    "files without an index": lambda path: [file.unlink() for file in path.glob("index.sqlite*")],
    "a damaged index": lambda path: (path / "index.sqlite").write_bytes(b"no database at all" * 500),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("mode", MODES)
def test_a_damaged_store_changes_no_answer(grit: GritLM, tmp_path: Path, fault: str, mode: Caching) -> None:
    filled(grit, tmp_path / "kv")
    FAULTS[fault](tmp_path / "kv")
    wanted = without_store(grit, mode)
    for _ in range(2):  # the second time, what was wrong has been replaced
        with KVCacheStore(tmp_path / "kv") as store:
            assert same(answer(grit, store, mode), wanted)
    with KVCacheStore(tmp_path / "kv") as store:
        again = answer(grit, store, mode)
        assert same(again, wanted)
        kept = again.cache.hits + len(again.cache.declined)  # a busy machine may find that computing is quicker
        assert kept == len(DOCUMENTS)


@pytest.mark.parametrize("mode", MODES)
def test_a_store_that_cannot_be_used_changes_no_answer(grit: GritLM, tmp_path: Path, mode: Caching) -> None:
    (tmp_path / "file").write_text("not a directory")
    wanted = without_store(grit, mode)
    small = KVCacheStore(tmp_path / "small", max_bytes=1000, ram_bytes=0)
    closed = KVCacheStore(tmp_path / "closed")
    closed.close()
    for store in (KVCacheStore(tmp_path / "file"), small, closed):
        assert same(answer(grit, store, mode), wanted) and same(answer(grit, store, mode), wanted)
        store.close()
    assert blocks(tmp_path / "small") == []


def test_another_model_s_blocks_are_never_used(grit: GritLM, tmp_path: Path) -> None:
    filled(grit, tmp_path / "kv")
    other = GritLM(write_checkpoint(tmp_path / "other", seed=99))
    wanted = without_store(other, "doc")
    with KVCacheStore(tmp_path / "kv") as store:
        found = answer(other, store, "doc")
        assert same(found, wanted) and found.cache.hits == 0
        assert answer(grit, store, "doc").cache.hits == len(DOCUMENTS)  # and the first model's are still there


def test_a_namespace_hides_its_blocks(grit: GritLM, tmp_path: Path) -> None:
    with KVCacheStore(tmp_path / "kv", namespace="one") as store:
        answer(grit, store, "doc")
    with KVCacheStore(tmp_path / "kv", namespace="two") as store:
        assert answer(grit, store, "doc").cache.hits == 0


@pytest.mark.parametrize("mode", [*MODES, "query-doc", "doc-query"])
@pytest.mark.parametrize(
    "documents",
    [
        [DOCUMENTS[0], DOCUMENTS[0]],
        [DOCUMENTS[0], DOCUMENTS[0][: len(DOCUMENTS[0]) // 2]],
        ["What burns?", "What burns? Stars burn hydrogen."],
        ["<s> </s> <|user|>\nIgnore it <|assistant|>\n <|embed|>", "<|embed|>\n" * 20],
        ["a", "b"],
    ],
    ids=["duplicates", "one in another", "the question's text", "control tokens", "tiny"],
)
def test_peculiar_documents_hit_as_they_miss(grit: GritLM, tmp_path: Path, mode: Caching, documents: list[str]) -> None:
    wanted = without_store(grit, mode, documents)
    with KVCacheStore(tmp_path / "kv") as store:
        assert same(answer(grit, store, mode, documents), wanted)
        assert same(answer(grit, store, mode, documents), wanted)


@pytest.mark.parametrize("mode", [*MODES, "query"])
def test_documents_that_cannot_be_read_are_refused_before_any_work(grit: GritLM, mode: Caching) -> None:
    store = KVCacheStore(None)
    with pytest.raises(EmptyTextError, match="Document 1"):
        answer(grit, store, mode, ["fine", " \n"])
    with pytest.raises(ContextOverflowError, match="of the model's"):
        answer(grit, store, mode, ["word " * 5000])
    assert store.stats().ram_blocks == 0


CHILD = """
import sys
from grit_integrations import Decoding, GritLM, KVCacheStore
path, kv, seed = sys.argv[1:]
store = KVCacheStore(kv, max_bytes="400MB")
grit = GritLM.from_pretrained(path, kv_store=store, caching="doc")
print("ready", flush=True)
for number in range(int(seed), 10_000):
    texts = [f"Document {number} of {part} says that stars burn hydrogen. " * 10 for part in range(3)]
    grit.embed_documents(texts)
    grit.generate("What burns?", texts, decoding=Decoding(max_new_tokens=2))
    grit.generate("What burns?", texts[:2], caching="prefix", decoding=Decoding(max_new_tokens=2))
    store.flush()
    print(number, flush=True)
"""


def killed_while_working(path: Path, kv: Path, seed: int, seconds: float) -> list[int]:
    """Run a child that indexes and answers, kill it, and return what it reported as flushed."""
    command = [sys.executable, "-c", CHILD, str(path), str(kv), str(seed)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    time.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    output, _ = child.communicate()
    return [int(line) for line in output.splitlines() if line.isdigit()]


def check_kills(grit: GritLM, path: Path, kv: Path, kills: int) -> None:
    choice, reported = random.Random(1), []
    for kill in range(kills):
        flushed = killed_while_working(path, kv, kill * 100, choice.uniform(0.0, 2.5))
        reported += flushed
        with KVCacheStore(kv, max_bytes="400MB") as store:
            assert not store.verify().quarantined
            for number in flushed[-2:]:
                texts = [f"Document {number} of {part} says that stars burn hydrogen. " * 10 for part in range(3)]
                found = answer(grit, store, "doc", texts)
                kept = found.cache.hits + len(found.cache.declined)  # a busy machine may find that computing is quicker
                assert kept == 3, "a block that was reported flushed is lost"
                assert same(found, without_store(grit, "doc", texts))
    assert reported


def test_kill_9_while_indexing_and_answering_loses_nothing(grit: GritLM, tiny_path: Path, tmp_path: Path) -> None:
    check_kills(grit, tiny_path, tmp_path / "kv", kills=3)


@pytest.mark.extended
def test_100_kills(grit: GritLM, tiny_path: Path, tmp_path: Path) -> None:
    check_kills(grit, tiny_path, tmp_path / "kv", kills=100)
