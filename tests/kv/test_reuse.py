"""Stores and policies through `GritLM`: what is kept, what is read, what is declined, and that no fault shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from grit_integrations import Decoding, GritLM, KVCacheStore
from grit_integrations.errors import CacheError
from grit_integrations.kv.policy import BreakEven, CachePolicy
from grit_integrations.kv.store.store import Disk
from grit_integrations.options import CACHINGS, Caching
from grit_integrations.prompts.formats import Message
from grit_integrations.results import CacheReport, Generation

HEART = "The heart pumps blood through the vessels of the body, and the blood carries oxygen to every cell. " * 2
STARS = "Stars burn hydrogen for billions of years until it runs out, and then they swell and cool down. " * 2
SHORT = "Snow is cold."
QUESTION = "What burns?"
FOUR = Decoding(max_new_tokens=4)
MODES: tuple[Caching, ...] = ("prefix", "doc", "query", "query-doc", "doc-query")

Make = Callable[..., GritLM]


@pytest.fixture
def make(tiny: GritLM, tiny_path: Path) -> Make:
    """Objects that share the tiny model's weights, each with a store and a policy of its own."""

    def grit(store: KVCacheStore | None, policy: CachePolicy | None = None, **options: Any) -> GritLM:
        return GritLM.from_pretrained(tiny_path, kv_store=store, cache_policy=policy, **options)

    return grit


def ask(grit: GritLM, *documents: str, caching: Caching | None = None) -> Generation:
    return grit.generate(QUESTION, documents, decoding=FOUR, caching=caching)


def on_disk(path: Path) -> int:
    with KVCacheStore(path) as store:
        return store.stats().blocks


def wait_for(happens: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not happens() and time.monotonic() < deadline:
        time.sleep(0.01)
    return happens()


# What is kept on disk


def test_only_documents_that_are_long_enough_get_a_file(make: Make, tmp_path: Path) -> None:
    with KVCacheStore(tmp_path) as store:
        ask(make(store), HEART, SHORT)
        store.flush()
        assert store.stats().blocks == 1 and store.stats().ram_blocks == 3  # two documents and the suffix
        tokens = store.stats().tokens
    with KVCacheStore(tmp_path / "all") as store:
        ask(make(store, CachePolicy(min_tokens=0)), HEART, SHORT)
    assert on_disk(tmp_path / "all") == 2
    with KVCacheStore(tmp_path / "none") as store:
        ask(make(store, CachePolicy(min_tokens=tokens + 1)), HEART, SHORT)
    assert on_disk(tmp_path / "none") == 0
    with KVCacheStore(tmp_path / "exact") as store:
        ask(make(store, CachePolicy(min_tokens=tokens)), HEART, SHORT)
    assert on_disk(tmp_path / "exact") == 1


def test_admit_after_counts_misses_of_all_processes(make: Make, tmp_path: Path) -> None:
    blocks = []
    for _ in range(4):
        with KVCacheStore(tmp_path, ram_bytes=0) as store:
            ask(make(store, CachePolicy(admit_after=3)), HEART)
        blocks.append(on_disk(tmp_path))
    assert blocks == [0, 0, 1, 1]


def test_a_question_alone_leaves_nothing_on_disk(make: Make, tmp_path: Path) -> None:
    with KVCacheStore(tmp_path) as store:
        make(store).generate(HEART + QUESTION, decoding=FOUR)
    assert on_disk(tmp_path) == 0


# When reading from disk pays


@pytest.fixture
def filled(make: Make, tmp_path: Path) -> tuple[Path, Generation]:
    """A store on disk with two documents, and the answer that was given while it was filled."""
    with KVCacheStore(tmp_path / "kv") as store:
        return tmp_path / "kv", ask(make(store), HEART, STARS)


def reopened(
    make: Make, path: Path, break_even: BreakEven, *, prefill: float | None = None, load: float | None = None
) -> tuple[Generation, KVCacheStore]:
    """Answer from a store opened anew, with speeds written down by hand."""
    with KVCacheStore(path) as store:
        grit = make(store, CachePolicy(break_even=break_even))
        hardware = grit._session().cache._space().hardware
        store.record_speed(hardware, prefill=prefill, load=load)
        return ask(grit, HEART, STARS), store


def test_a_load_slower_than_computing_is_declined_and_reported(make: Make, filled: tuple[Path, Generation]) -> None:
    path, first = filled
    answer, _ = reopened(make, path, "auto", prefill=1e6, load=10.0)
    assert answer.token_ids == first.token_ids
    assert (answer.cache.hits, answer.cache.misses, answer.usage.cache_read_tokens) == (0, 2, 0)
    assert len(answer.cache.declined) == 2
    assert all("from disk would take" in reason and "computing" in reason for reason in answer.cache.declined)


@pytest.mark.parametrize(
    ("break_even", "prefill", "load"),
    [("auto", 1.0, 1e12), ("auto", 1e6, None), ("auto", None, 10.0), ("always", 1e9, 1.0)],
)
def test_what_pays_is_not_measured_or_is_wanted_anyway_is_read(
    make: Make, filled: tuple[Path, Generation], break_even: BreakEven, prefill: float | None, load: float | None
) -> None:
    path, first = filled
    answer, _ = reopened(make, path, break_even, prefill=prefill, load=load)
    assert answer.token_ids == first.token_ids
    assert (answer.cache.hits, answer.cache.misses, answer.cache.declined) == (2, 0, ())
    assert answer.cache.bytes_read > 0


def test_never_reads_nothing_from_disk_and_memory_all_the_same(make: Make, filled: tuple[Path, Generation]) -> None:
    path, first = filled
    with KVCacheStore(path) as store:
        grit = make(store, CachePolicy(break_even="never"))
        declined, again = ask(grit, HEART, STARS), ask(grit, HEART, STARS)
    assert declined.token_ids == again.token_ids == first.token_ids
    assert (declined.cache.hits, len(declined.cache.declined)) == (0, 2)
    assert "never" in declined.cache.declined[0]
    assert (again.cache.hits, again.cache.misses, again.cache.declined) == (2, 0, ())  # what was computed is in RAM


def test_what_was_declined_is_not_written_again(make: Make, filled: tuple[Path, Generation]) -> None:
    _, store = reopened(make, filled[0], "auto", prefill=1e6, load=10.0)
    assert store.stats().written == 0


def test_speeds_are_measured_along_the_way(make: Make, tmp_path: Path) -> None:
    long = HEART * 10
    with KVCacheStore(tmp_path) as store:
        first = ask(make(store), long)
        assert first.cache.seconds_saved is not None  # the speed of this very block
    with KVCacheStore(tmp_path) as store:
        grit = make(store, CachePolicy(break_even="always"))
        again = ask(grit, long)
        speeds = store.speeds(grit._session().cache._space().hardware)
    assert speeds.prefill and speeds.load and again.cache.seconds_saved is not None
    assert again.timings.load > 0


# What is counted


@pytest.mark.parametrize("mode", MODES)
def test_tokens_read_and_kept_add_up_to_the_prompt(make: Make, mode: Caching) -> None:
    grit = make(KVCacheStore(None))
    cold, warm = ask(grit, HEART, STARS, caching=mode), ask(grit, HEART, STARS, caching=mode)
    for answer in (cold, warm):
        usage = answer.usage
        assert answer.cache.mode == mode
        assert usage.cache_read_tokens + usage.cache_creation_tokens == usage.prompt_tokens
        assert usage.completion_tokens == len(answer.token_ids)
        assert usage.prompt_tokens == grit.count_message_tokens(QUESTION, [HEART, STARS], caching=mode)
    assert cold.usage.cache_read_tokens == cold.cache.bytes_read == cold.cache.hits == 0
    blocks = {"prefix": 2, "doc": 2, "query": 1, "query-doc": 3, "doc-query": 3}[mode]
    assert (cold.cache.misses, warm.cache.hits, warm.cache.misses) == (blocks, blocks, 0)
    assert warm.usage.cache_read_tokens > 0 and warm.cache.bytes_read > 0


def test_off_takes_and_leaves_nothing(make: Make) -> None:
    store = KVCacheStore(None)
    grit = make(store, caching="off")
    for _ in range(2):
        answer = ask(grit, HEART)
        assert answer.cache == CacheReport("off")
        assert answer.usage.cache_read_tokens == answer.usage.cache_creation_tokens == 0
    grit.cache_documents([STARS])
    assert store.stats().ram_blocks == 0


# Conversations


@pytest.mark.parametrize("mode", ["prefix", "doc"])
def test_a_turn_computes_only_itself(make: Make, mode: Caching) -> None:
    grit = make(KVCacheStore(None), caching=mode)
    messages, before = [Message("user", QUESTION)], 0
    for turn in range(4):
        answer = grit.generate(messages, [HEART, STARS], decoding=FOUR)
        if turn:
            assert answer.cache.misses == 0
            assert answer.usage.cache_read_tokens == before  # everything up to the last answer
        alone = make(KVCacheStore(None), caching=mode).generate(messages, [HEART, STARS], decoding=FOUR)
        assert answer.token_ids == alone.token_ids
        before = answer.usage.prompt_tokens
        messages += [Message("assistant", f"Answer {turn}."), Message("user", f"And {turn}?")]


def test_two_conversations_share_their_beginning(make: Make) -> None:
    grit = make(KVCacheStore(None))
    grit.generate([Message("user", QUESTION)], [HEART], decoding=FOUR)
    other = grit.generate([Message("user", "What pumps?")], [HEART], decoding=FOUR)
    assert (other.cache.hits, other.cache.misses) == (1, 0)


# Documents before a question


@pytest.mark.parametrize("mode", ["prefix", "doc", "query-doc", "doc-query"])
def test_documents_cached_beforehand_are_hits(make: Make, tmp_path: Path, mode: Caching) -> None:
    with KVCacheStore(tmp_path) as store:
        grit = make(store, caching=mode)
        wanted = ask(make(KVCacheStore(None), caching=mode), STARS)
        assert grit.stored([HEART, STARS]) == [False, False]
        report = grit.cache_documents([HEART, STARS])
        assert (report.mode, report.hits, report.misses) == (mode, 0, 2)
        assert grit.stored([STARS, SHORT]) == [True, False]
        again = grit.cache_documents([HEART, STARS, SHORT])
        assert (again.hits, again.misses) == (2, 1)
        answer = ask(grit, STARS)
    assert answer.cache.hits == 1 and answer.token_ids == wanted.token_ids
    assert on_disk(tmp_path) == 2  # SHORT has too few tokens


@pytest.mark.parametrize("mode", ["prefix", "doc"])
def test_prefetching_brings_blocks_into_memory(make: Make, tmp_path: Path, mode: Caching) -> None:
    with KVCacheStore(tmp_path) as store:
        make(store, caching=mode).cache_documents([HEART])
    with KVCacheStore(tmp_path) as store:
        grit = make(store, caching=mode)
        grit.prefetch([HEART])
        assert wait_for(lambda: store.stats().ram_blocks == 1)
        answer = ask(grit, HEART)
        assert answer.cache.hits == 1 and store.stats().hits_disk == 0
        grit.prefetch([])
        grit.prefetch([STARS])  # not stored: nothing happens


def test_remembered_documents_are_found_in_a_message(make: Make) -> None:
    grit = make(KVCacheStore(None))
    grit.cache_documents([HEART])
    message = f"{HEART}\n\n{QUESTION}"
    assert grit.generate(message, decoding=FOUR).cache.hits == 0
    grit.remember_documents([HEART])
    try:
        found = grit.generate(message, decoding=FOUR)
    finally:
        grit._loaded().recent._texts.clear()  # all tests share the weights, and these with them
    assert found.cache.hits + found.cache.misses == 1
    assert grit.generate(message, decoding=FOUR, known_documents=[HEART]).cache.hits == 1


@pytest.mark.parametrize("caching", CACHINGS)
def test_what_others_retrieved_changes_no_token_and_no_pattern_that_a_call_reads(make: Make, caching: Caching) -> None:
    grit = make(KVCacheStore(None))
    prompts = [f"{HEART}\n\n{QUESTION}", f"{'Look at this. ' * 30}{STARS} {HEART}"]
    before = [grit.prompt(prompt, caching=caching) for prompt in prompts]
    answers = [grit.generate(prompt, decoding=FOUR) for prompt in before]
    grit.remember_documents([HEART, STARS])
    try:
        after = [grit.prompt(prompt, caching=caching) for prompt in prompts]
        answered = [grit.generate(prompt, decoding=FOUR) for prompt in after]
    finally:
        grit._loaded().recent._texts.clear()
    for one, other in zip(before, after, strict=True):
        assert one.plan.prompt_ids == other.plan.prompt_ids
        assert {block.pattern for block in other.plan.blocks} <= {"causal"}
        assert caching != "doc" or one.plan == other.plan
    assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in answered]


# Faults


@contextmanager
def broken_disk(monkeypatch: pytest.MonkeyPatch, *names: str) -> Iterator[None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        for name in names:
            patch.setattr(Disk, name, fail)
        yield


@pytest.mark.parametrize("mode", MODES)
def test_a_closed_store_changes_no_answer(make: Make, tmp_path: Path, mode: Caching) -> None:
    store = KVCacheStore(tmp_path)
    grit = make(store, caching=mode)
    open_ = ask(grit, HEART, STARS)
    store.close()
    closed = ask(grit, HEART, STARS)
    assert closed.token_ids == open_.token_ids
    assert closed.cache.hits == closed.usage.cache_creation_tokens == 0
    assert len(grit.embed_documents([HEART])) == 1
    assert grit.stored([HEART]) == [False]
    grit.prefetch([HEART])


@pytest.mark.parametrize("mode", MODES)
def test_a_disk_that_fails_changes_no_answer(
    make: Make, tmp_path: Path, mode: Caching, monkeypatch: pytest.MonkeyPatch
) -> None:
    with KVCacheStore(tmp_path) as store:
        wanted = ask(make(store, caching=mode), HEART, STARS)
    with KVCacheStore(tmp_path, ram_bytes=0) as store:
        grit = make(store, CachePolicy(admit_after=2), caching=mode)
        with broken_disk(monkeypatch, "load", "known", "file_bytes", "save", "count_miss", "speeds", "record_speeds"):
            answer = ask(grit, HEART, STARS)
            assert len(grit.embed_documents([STARS])) == 1
        assert answer.token_ids == wanted.token_ids and answer.cache.hits == 0
        assert store.stats().read_failures > 0


def test_files_altered_on_disk_are_computed_again(make: Make, filled: tuple[Path, Generation]) -> None:
    path, first = filled
    for file in (path / "blocks").rglob("*.safetensors"):
        data = bytearray(file.read_bytes())
        data[-100] ^= 1
        file.write_bytes(data)
    with KVCacheStore(path) as store:
        answer = ask(make(store), HEART, STARS)
        assert store.stats().quarantined == 2
    assert answer.token_ids == first.token_ids and answer.cache.misses == 2
    assert reopened(make, path, "always")[0].cache.hits == 2  # written anew


def test_a_path_that_is_no_folder_changes_no_answer(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "kv"
    file.write_text("not a folder")
    wanted = ask(make(KVCacheStore(None)), HEART)
    with KVCacheStore(file) as store:
        grit = make(store)
        assert ask(grit, HEART).token_ids == wanted.token_ids
        assert ask(grit, HEART).cache.hits == 1  # from memory
    assert file.read_text() == "not a folder"


def test_a_strict_store_tells(make: Make, tmp_path: Path) -> None:
    store = KVCacheStore(tmp_path, strict=True)
    store.close()
    with pytest.raises(CacheError, match="closed"):
        ask(make(store), HEART)


def test_a_block_of_other_tokens_under_the_same_key_is_not_used(make: Make) -> None:
    """Keys do not collide; should one ever be wrong, the tokens in the block tell."""
    store, other = KVCacheStore(None), KVCacheStore(None)
    first = ask(make(store), HEART, STARS)
    assert store._tiers is not None
    for key, entry in list(store._tiers.ram._entries.items()):
        other.put(key, entry.block.slice(0, 3))
    answer = ask(make(other), HEART, STARS)
    assert answer.cache.hits == 0 and answer.token_ids == first.token_ids
