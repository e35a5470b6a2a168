"""What `stock_pair.py` measures of an arm in a process of its own, so that nothing else is in its memory or in its way.

    python stock_pair_processes.py memory|first-token ARM

ARM is the JSON that makes the arm. The last line printed is its figures, as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from caching_arms import documents_of, questions_of, repeat
from embedding import corpus_texts
from retrieval import order_of
from stock_pair_arms import Chat, StockPair

from grit_integrations import CachePolicy, Decoding, GritLM, KVCacheStore
from grit_integrations.evaluation.arms import NEW_TOKENS
from grit_integrations.evaluation.phrases import INSTRUCTIONS
from grit_integrations.options import Caching

PASSAGES, TOKENS, QUESTION_TOKENS = 32, 2000, 32
ALWAYS = CachePolicy(break_even="always")  # reads what is stored, however slow the disk is
ROOM = 128  # of a window beside the document: the question, the prompt's own words, and the token
CACHED: tuple[Caching, ...] = ("prefix", "doc")  # the modes that an index keeps documents in

Figures = dict[str, Any]
Spec = dict[str, str]


def memory(spec: Spec, *, passages: int = PASSAGES) -> Figures:
    """Index passages, find three for a question and answer from them; return this process's bytes."""
    before, use = memory_of("VmRSS"), use_grit if "model" in spec else use_pair
    parameters = use(spec, corpus_texts(passages), "How do stars shine?")
    return {"before": before, "peak": memory_of("VmHWM"), "parameters": parameters}


def use_grit(spec: Spec, texts: list[str], question: str) -> int:
    """Index, find and answer with one model that keeps what it reads on disk; return the bytes of its weights."""
    with tempfile.TemporaryDirectory() as folder, KVCacheStore(folder, ram_bytes=0) as store:
        grit = GritLM(spec["model"], dtype=spec["dtype"], caching="doc", kv_store=store)
        passages = grit.embed_documents(texts, progress=False)
        query = grit.embed_queries([question], instruction=INSTRUCTIONS["question"])
        best = [texts[index] for index in order_of(query @ passages.T)[0][:3]]
        grit.generate(question, best, decoding=Decoding(max_new_tokens=NEW_TOKENS))
        return int(grit.describe()["bytes"])


def use_pair(spec: Spec, texts: list[str], question: str) -> int:
    """Index and find with one model, answer with another; return the bytes of their weights."""
    pair = StockPair(**spec)
    best = [texts[index] for index in order_of(pair.nearest([question], texts))[0][:3]]
    pair.chat.answer(question, best)
    return sum(each.nbytes for model in (pair.embedder.model, pair.chat.model) for each in model.parameters())


def memory_of(field: str) -> int:
    """Return a field of this process's status, in bytes; `VmHWM` is the most that was resident since it began."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise SystemExit(f"This system does not say {field} of a process: measure on Linux.")


def first_token(spec: Spec, *, tokens: int = TOKENS) -> Figures:
    """Return the seconds from a question about a document to the first token, by what is stored of the document.

    The document has fewer tokens where the window is too small.
    """
    return first_token_of_grit(spec, tokens) if "model" in spec else first_token_of_chat(spec, tokens)


def first_token_of_grit(spec: Spec, tokens: int) -> Figures:
    """Time a model with nothing stored, then with the document's block on disk in each mode."""
    grit, one = GritLM(spec["model"], dtype=spec["dtype"], caching="off"), Decoding(max_new_tokens=1)
    tokens = min(tokens, grit.window - ROOM)
    documents, questions = documents_of(grit, tokens), questions_of(grit, QUESTION_TOKENS)
    nothing = timed(lambda turn: grit.generate(questions[turn], documents, decoding=one))
    figures: Figures = {"document": tokens, "nothing": nothing}
    for mode in CACHED:
        with tempfile.TemporaryDirectory() as folder:
            with KVCacheStore(folder) as store:
                grit.with_options(caching=mode, kv_store=store).cache_documents(documents, progress=False)
            with KVCacheStore(folder, ram_bytes=0) as store:
                reading = grit.with_options(caching=mode, kv_store=store, cache_policy=ALWAYS)
                ask = partial(reading.generate, documents=documents, decoding=one)
                assert ask(questions[0]).cache.hits == 1, "the document's block was not read"
                figures[mode] = timed(lambda turn, ask=ask: ask(questions[turn]))
    return figures


def first_token_of_chat(spec: Spec, tokens: int) -> Figures:
    """Time a stock chat model, which reads its whole prompt for every question."""
    chat, tools = Chat(spec["chat"], spec["dtype"]), GritLM(spec["chat"])
    tokens = min(tokens, tools.window - ROOM)
    documents, questions = documents_of(tools, tokens), questions_of(tools, QUESTION_TOKENS)
    return {"document": tokens, "nothing": timed(lambda turn: chat.answer(questions[turn], documents, new=1))}


def timed(ask: Callable[[int], object]) -> list[float]:
    """Return the seconds of each turn, warm-ups left out."""

    def answer(turn: int) -> tuple[float, float]:
        began = time.perf_counter()
        ask(turn)
        return (time.perf_counter() - began,) * 2

    return repeat(answer)["ttft"]


if __name__ == "__main__":
    measures = {"memory": memory, "first-token": first_token}
    print(json.dumps(measures[sys.argv[1]](json.loads(sys.argv[2]))))
