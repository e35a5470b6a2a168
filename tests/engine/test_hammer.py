"""Many threads that ask for everything at once, for seconds or (`make extended`) for minutes. Random weights.

Whatever runs beside it, an answer is what it is alone; and memory, threads and descriptors stay bounded.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from grit_integrations import Decoding, GritLM, KVCacheStore, OptionError, PromptError

SECONDS = float(os.environ.get("GRIT_HAMMER_SECONDS", "600"))
TEXTS = [f"Text {number} says that the heart pumps blood and that stars burn hydrogen. " * 3 for number in range(6)]
FOUR = Decoding(max_new_tokens=4, logprobs=1)
QUOTED = Decoding(max_new_tokens=4, quote=True)
TOLERANCE = 1e-5  # a text's vector in another batch


class Callers:
    """What a caller may do, with what each call gives when nothing else runs."""

    def __init__(self, grit: GritLM) -> None:
        self._grit = grit
        self._vectors = grit.embed_documents(TEXTS)
        self._calls: list[Callable[[random.Random], object]] = [
            self.generate,
            self.stream_and_leave,
            self.quote,
            self.embed,
            self.rerank,
            self.agenerate,
            self.cancel,
            self.refused,
        ]
        self._alone = {(text, mode): self._answer(text, mode) for text in TEXTS for mode in ("off", "prefix", "doc")}
        self._quotes = {text: grit.generate("What burns?", [text], decoding=QUOTED).text for text in TEXTS}
        self._order = [found.index for found in grit.rerank("What burns?", TEXTS)]
        self.done: Counter[str] = Counter()

    def _answer(self, text: str, mode: Any) -> Any:
        found = self._grit.generate("What burns?", [text], decoding=FOUR, caching=mode)
        return found.token_ids, found.logprobs

    def work_until(self, deadline: float, seed: int) -> None:
        """Make one call after another, each checked."""
        choice = random.Random(seed)
        while time.monotonic() < deadline:
            call = choice.choice(self._calls)
            call(choice)
            self.done[call.__name__] += 1

    def generate(self, choice: random.Random) -> None:
        text, mode = choice.choice(list(self._alone))
        assert self._answer(text, mode) == self._alone[text, mode]

    def stream_and_leave(self, choice: random.Random) -> None:
        with self._grit.stream("What burns?", [choice.choice(TEXTS)], decoding=Decoding(max_new_tokens=200)) as stream:
            for number, _ in enumerate(stream):
                if number == choice.randrange(4):
                    break

    def quote(self, choice: random.Random) -> None:
        text = choice.choice(TEXTS)
        assert self._grit.generate("What burns?", [text], decoding=QUOTED).text == self._quotes[text]

    def embed(self, choice: random.Random) -> None:
        places = choice.sample(range(len(TEXTS)), choice.randint(1, len(TEXTS)))
        found = self._grit.embed_documents([TEXTS[place] for place in places])
        assert np.abs(found - self._vectors[places]).max() < TOLERANCE

    def rerank(self, _: random.Random) -> None:
        assert [found.index for found in self._grit.rerank("What burns?", TEXTS)] == self._order

    def agenerate(self, choice: random.Random) -> None:
        text, mode = choice.choice(list(self._alone))
        found = asyncio.run(self._grit.agenerate("What burns?", [text], decoding=FOUR, caching=mode))
        assert (found.token_ids, found.logprobs) == self._alone[text, mode]

    def cancel(self, choice: random.Random) -> None:
        async def impatient() -> None:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(
                    self._grit.agenerate("What burns?", TEXTS, decoding=Decoding(max_new_tokens=2000)),
                    choice.uniform(0.001, 0.05),
                )

        asyncio.run(impatient())

    def refused(self, choice: random.Random) -> None:
        with pytest.raises((PromptError, OptionError)):
            self._grit.generate(*choice.choice([("",), ("Hi", [""]), ("word " * 9000,), ("Hi", ["x\0y"])]))


@contextmanager
def all_at_once(work: Callable[[int], None], threads: int) -> Iterator[None]:
    """Run `work` in many threads while the block runs; what fails in one fails the test."""
    failures: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    running = [threading.Thread(target=guarded, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    yield
    for thread in running:
        thread.join(120)
    assert not any(thread.is_alive() for thread in running), "a call never ended"
    if failures:
        raise failures[0]


def hammer(path: Path, store: Path, seconds: float, threads: int) -> Counter[str]:
    """Let `threads` callers work on one model with a small store, and watch what the process holds meanwhile."""
    with KVCacheStore(store, max_bytes="2MB", ram_bytes="1MB") as kept:
        callers = Callers(GritLM.from_pretrained(path, kv_store=kept))
        process = psutil.Process()
        watched: list[tuple[int, int]] = []
        deadline = time.monotonic() + seconds
        with all_at_once(lambda number: callers.work_until(deadline, number), threads):
            while time.monotonic() < deadline:
                time.sleep(min(1.0, seconds / 8))
                watched.append((process.memory_info().rss, process.num_fds()))
    check_bounded(watched)
    return callers.done


def check_bounded(watched: list[tuple[int, int]]) -> None:
    """Compare the last half with the first: caches fill at first, a leak grows for ever."""
    half = len(watched) // 2
    for name, slack, figures in zip(("bytes", "descriptors"), (150e6, 100), zip(*watched, strict=True), strict=True):
        assert max(figures[half:]) <= max(figures[:half]) + slack, f"{name} grow: {figures}"


def test_many_threads_at_once_for_seconds(tiny_path: Path, tmp_path: Path) -> None:
    done = hammer(tiny_path, tmp_path / "kv", seconds=6, threads=16)
    assert len(done) == 8, done


@pytest.mark.extended
def test_64_threads_at_once_for_minutes(tiny_path: Path, tmp_path: Path) -> None:
    done = hammer(tiny_path, tmp_path / "kv", SECONDS, threads=64)
    assert len(done) == 8, done
