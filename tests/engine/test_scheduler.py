"""Many threads, one worker: results are those of a single thread; errors, cancels and unloading hurt nobody else."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import pickle
import shutil
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import write_checkpoint

from grit_integrations import Decoding, GritError, GritLM, KVCacheStore, OptionError, unload_all
from grit_integrations.engine.jobs import ENCODE, GENERATE, LANES

SHORT = Decoding(max_new_tokens=12)


def idle(grit: GritLM, seconds: float = 5.0) -> bool:
    """Wait until the worker has nothing left."""
    scheduler = grit._loaded().scheduler
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        if not any(map(scheduler.jobs, LANES)):
            return True
        time.sleep(0.01)
    return False


def test_eight_threads_get_their_single_threaded_results(tiny: GritLM) -> None:
    """300 of 300: generations equal to the token, embeddings to 1e-6 (a batch's shape changes the last bits)."""
    prompts = [f"Question {i} about {'the sea ' * (i % 17)}" for i in range(300)]
    generations = [tiny.generate(p, decoding=SHORT) for p in prompts]
    vectors = [tiny.embed_queries([p], instruction="Find it")[0] for p in prompts]

    def both(index: int) -> tuple[bool, bool]:
        vector = tiny.embed_queries([prompts[index]], instruction="Find it")[0]
        generation = tiny.generate(prompts[index], decoding=SHORT)
        return (
            (generation.token_ids, generation.text) == (generations[index].token_ids, generations[index].text),
            np.allclose(vector, vectors[index], atol=1e-6),
        )

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(both, range(300)))
    assert sum(generated for generated, _ in outcomes) == 300
    assert sum(embedded for _, embedded in outcomes) == 300


def test_concurrent_embeds_share_batches(tiny: GritLM, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = tiny._loaded().encoder
    sizes: list[int] = []
    original = encoder.forward
    gate = threading.Event()

    def counted(batch: Any, pooling: Any) -> torch.Tensor:
        gate.wait(5)
        sizes.append(len(batch))
        return original(batch, pooling)

    monkeypatch.setattr(encoder, "forward", counted)
    with ThreadPoolExecutor(17) as pool:
        futures = [pool.submit(tiny.embed_queries, [f"text {i}"]) for i in range(17)]
        while tiny._loaded().scheduler._inbox.qsize() < 16:
            time.sleep(0.01)
        gate.set()
        for future in futures:
            future.result()
    assert sum(sizes) == 17 and len(sizes) <= 3


def test_a_query_does_not_wait_for_a_long_indexing_job(tiny: GritLM) -> None:
    done: list[str] = []
    documents = ["a fairly long document " * 60] * 200

    def index() -> None:
        tiny.embed_documents(documents)
        done.append("documents")

    thread = threading.Thread(target=index)
    thread.start()
    while not tiny._loaded().scheduler.jobs(ENCODE):
        time.sleep(0.001)
    tiny.embed_queries(["short"])
    done.append("query")
    thread.join()
    assert done == ["query", "documents"]


def test_generation_and_embedding_take_turns(tiny: GritLM) -> None:
    stream = tiny.stream("hello", decoding=Decoding(max_new_tokens=500))
    next(stream)
    tiny.embed_documents(["a document"])  # finishes long before the 500 tokens are decoded
    assert tiny._loaded().scheduler.jobs(GENERATE)
    assert stream.result().usage.completion_tokens == 500


def test_closing_a_stream_frees_its_place(tiny: GritLM) -> None:
    stream = tiny.stream("hello", decoding=Decoding(max_new_tokens=3000))
    next(stream)
    stream.close()
    assert idle(tiny)
    assert list(stream) == []


def test_dropping_a_stream_frees_its_place(tiny: GritLM) -> None:
    for _ in tiny.stream("hello", decoding=Decoding(max_new_tokens=3000)):
        break
    gc.collect()
    assert idle(tiny)


async def test_cancelling_a_task_stops_its_work(tiny: GritLM) -> None:
    generation = asyncio.create_task(tiny.agenerate("hello", decoding=Decoding(max_new_tokens=3000)))
    embedding = asyncio.create_task(tiny.aembed_documents(["a long document " * 200] * 500))
    await asyncio.sleep(0.2)
    for task in (generation, embedding):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await asyncio.to_thread(idle, tiny)


async def test_the_event_loop_never_waits(tiny: GritLM) -> None:
    late: list[float] = []

    async def tick() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.01)
            late.append(time.perf_counter() - before - 0.01)

    ticker = asyncio.create_task(tick())
    await asyncio.gather(
        *(tiny.agenerate(f"question {i}", decoding=Decoding(max_new_tokens=40)) for i in range(8)),
        tiny.aembed_documents(["document " * 50] * 50),
    )
    ticker.cancel()
    assert len(late) > 5 and sorted(late)[len(late) * 9 // 10] < 0.05


def test_an_error_reaches_only_its_caller(tiny: GritLM, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = tiny._loaded().decoder
    original = decoder._logits

    def failing(record: Any) -> torch.Tensor:
        if record.decoding.seed == 13 and len(record.token_ids) == 3:
            raise RuntimeError("out of memory, say")
        return original(record)

    monkeypatch.setattr(decoder, "_logits", failing)
    bad = tiny.stream("hello", decoding=Decoding(max_new_tokens=20, temperature=1.0, seed=13))
    good = tiny.stream("hello", decoding=Decoding(max_new_tokens=20))
    with pytest.raises(RuntimeError, match="out of memory"):
        for index, _ in enumerate(bad):
            assert index < 3
    assert good.result().usage.completion_tokens == 20


def test_an_encoder_error_reaches_its_caller_and_the_worker_lives(
    tiny: GritLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> torch.Tensor:
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(tiny._loaded().encoder, "forward", failing)
        with pytest.raises(RuntimeError, match="no memory"):
            tiny.embed_documents(["a"])
    assert tiny.embed_documents(["a"]).shape == (1, tiny.dim)


def test_equal_arguments_share_one_set_of_weights(tiny: GritLM, tiny_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        others = list(pool.map(lambda _: GritLM.from_pretrained(tiny_path), range(8)))
    assert all(other.lm is tiny.lm for other in others)
    assert GritLM.from_pretrained(tiny_path, dtype="bfloat16").lm is not tiny.lm


def test_a_checkpoint_written_anew_is_loaded_anew(tmp_path: Path) -> None:
    first = GritLM.from_pretrained(write_checkpoint(tmp_path / "m", seed=1))
    second = GritLM.from_pretrained(write_checkpoint(tmp_path / "m", seed=2))
    assert first.lm is not second.lm


def test_unload_frees_the_weights_and_the_next_call_loads_them_again(tmp_path: Path) -> None:
    grit = GritLM.from_pretrained(write_checkpoint(tmp_path / "m", seed=4))
    other = GritLM.from_pretrained(tmp_path / "m")
    before = grit.embed_documents(["text"])
    weights = weakref.ref(grit.lm)
    thread = grit._loaded().scheduler._thread
    grit.unload()
    assert not grit.is_loaded and not other.is_loaded
    gc.collect()
    thread.join(5)
    assert weights() is None and not thread.is_alive()
    assert np.array_equal(grit.embed_documents(["text"]), before)


def test_weights_outlive_every_object_until_all_are_unloaded(tmp_path: Path) -> None:
    """An object made for one request must find what an earlier one has loaded, and what it kept."""
    grit = GritLM.from_pretrained(write_checkpoint(tmp_path / "m", seed=6))
    page = "The heart pumps blood. " * 20
    grit.generate("hello", [page], decoding=SHORT)
    weights, thread = weakref.ref(grit.lm), grit._loaded().scheduler._thread
    del grit
    gc.collect()
    again = GritLM(tmp_path / "m")
    assert again.generate("hello again", [page], decoding=SHORT).cache.hits == 1
    assert again.lm is weights()
    unload_all()
    gc.collect()
    thread.join(5)
    assert weights() is None and not thread.is_alive() and not again.is_loaded


def test_what_runs_ends_before_its_weights_leave_memory(tmp_path: Path) -> None:
    grit = GritLM.from_pretrained(write_checkpoint(tmp_path / "m", seed=7))
    straight = grit.generate("hello", decoding=Decoding(max_new_tokens=20))
    with grit.stream("hello", decoding=Decoding(max_new_tokens=20)) as stream:
        next(stream)
        grit.unload()
        assert stream.result().text == straight.text


def test_a_handle_is_frozen_and_another_one_shares_its_weights(tiny: GritLM) -> None:
    with pytest.raises(AttributeError, match="with_options"):
        tiny.caching = "doc"
    other = tiny.with_options(caching="doc", truncate_dim=8)
    assert (tiny.caching, other.caching, tiny.dim, other.dim) == ("prefix", "doc", 64, 8)
    assert other.lm is tiny.lm and other.checkpoint is tiny.checkpoint
    with pytest.raises(OptionError, match="Did you mean 'caching'"):
        tiny.with_options(cachin="doc")
    with pytest.raises(OptionError, match="caching='docs' is unknown"):
        tiny.with_options(caching="docs")


def test_a_named_handle_is_made_once(tiny_path: Path) -> None:
    assert GritLM.named(tiny_path, caching="doc") is GritLM.named(str(tiny_path), caching="doc")
    assert GritLM.named(tiny_path) is not GritLM.named(tiny_path, caching="doc")


def test_a_named_handle_is_never_given_another_caller_s_store(tiny_path: Path) -> None:
    one, other = KVCacheStore(None), KVCacheStore(None)
    first, second = (GritLM.named(tiny_path, kv_store=store) for store in (one, other))
    assert (first.kv_store, second.kv_store, GritLM.named(tiny_path).kv_store) == (one, other, None)
    assert first.lm is second.lm is GritLM.named(tiny_path).lm


def test_a_named_handle_follows_its_checkpoint_and_outlives_its_folder(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "m", seed=1)
    first = GritLM.named(path).load()
    assert GritLM.named(path) is first
    write_checkpoint(path, seed=2)
    second = GritLM.named(path).load()
    assert second is not first and second.fingerprint != first.fingerprint
    shutil.rmtree(path)
    assert GritLM.named(path) is second and second.embed_queries(["still here"]).shape == (1, 64)


def test_closing_a_busy_scheduler_fails_its_work_clearly(tmp_path: Path) -> None:
    grit = GritLM.from_pretrained(write_checkpoint(tmp_path / "m", seed=8))
    stream = grit.stream("hello", decoding=Decoding(max_new_tokens=3000))
    next(stream)
    scheduler = grit._loaded().scheduler
    scheduler.close()
    with pytest.raises(GritError, match="unloaded before this request was finished"):
        for _ in stream:
            pass
    with pytest.raises(GritError, match="unloaded while it was being used"):
        grit.generate("hello", decoding=SHORT)


def test_lazy_objects_load_at_first_use(tiny_path: Path) -> None:
    grit = GritLM(tiny_path)
    assert (grit.window, grit.dim, grit.count_tokens("hello there")) == (4096, 64, 2)
    assert not grit.is_loaded and "not loaded" in repr(grit)
    grit.embed_queries(["hello"])
    assert grit.is_loaded


def test_pickling_carries_arguments_not_weights(tiny: GritLM) -> None:
    data = pickle.dumps(tiny)
    assert len(data) < 2000
    copy = pickle.loads(data)
    assert not copy.is_loaded
    assert np.array_equal(copy.embed_documents(["text"]), tiny.embed_documents(["text"]))


def _embed_after_fork(grit: GritLM, queue: Any) -> None:
    try:
        grit.embed_documents(["text"])
    except GritError as error:
        queue.put(str(error))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this platform cannot fork")
def test_use_after_fork_is_a_clear_error_not_a_hang(tiny: GritLM) -> None:
    tiny.load()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_embed_after_fork, args=(tiny, queue))
    process.start()
    assert "spawn" in queue.get(timeout=20)
    process.join(20)


EXIT = """
import sys
from grit_integrations import Decoding, GritLM, OptionError, unload_all
grit = GritLM.from_pretrained(sys.argv[1])
stream = grit.stream("hello", decoding=Decoding(max_new_tokens=3000))
next(stream)
print("leaving")
"""


def test_the_interpreter_exits_cleanly_while_work_is_left(tiny_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", EXIT, str(tiny_path)], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.strip()) == (0, "leaving"), run.stderr
