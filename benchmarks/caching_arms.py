"""The arms of `caching.py`, each run in a process of its own: `python caching_arms.py ARM CHECKPOINT DIRECTORY SIZES`.

Every arm answers the same prompts and prints, as JSON, the seconds to the first token and to the last.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import CORPUS

from grit_integrations import Decoding, GritLM, KVCacheStore
from grit_integrations.engine.prefill import Prefill, Reading
from grit_integrations.options import CACHINGS, Caching, Precision
from grit_integrations.prompts.plan import Plan
from grit_integrations.results import Generation

WARM_UPS, REPEATS = 2, 7
Answer = Callable[[int], tuple[float, float]]  # the turn; gives seconds to the first and to the last token


@dataclass(frozen=True, slots=True)
class Cell:
    """One size of the grid, in tokens."""

    document: int
    question: int
    new: int


@dataclass(frozen=True, slots=True)
class Arm:
    """How one arm of our own caches."""

    mode: Caching
    tier: str = "disk"  # what a hit is read from: "ram", "disk", "dropped" (disk, page cache dropped), "none" (a miss)
    precision: Precision = "native"
    documents: int = 1


OURS = {
    "off": Arm("off", "none"),
    "prefix, miss": Arm("prefix", "none"),
    "prefix, hit in RAM": Arm("prefix", "ram"),
    "prefix, hit on disk": Arm("prefix"),
    "prefix, hit on disk, page cache dropped": Arm("prefix", "dropped"),
    "prefix int8, hit on disk": Arm("prefix", precision="int8"),
    "doc, hit on disk": Arm("doc"),
    "doc int8, hit on disk": Arm("doc", precision="int8"),
    "query, hit in RAM": Arm("query", "ram"),
    "off, 5 documents": Arm("off", "none", documents=5),
    "prefix, 5 documents on disk": Arm("prefix", documents=5),
    "doc, 5 documents on disk": Arm("doc", documents=5),
}


def main() -> None:
    """Run one arm over all cells and print what it took."""
    name, checkpoint, directory, cells = sys.argv[1:]
    sizes = [Cell(**cell) for cell in json.loads(cells)]
    work = Path(directory)
    if name in OURS:
        rows = list(ours(OURS[name], checkpoint, work, sizes))
    else:
        rows = list(
            {"limit": limits, "index": index_cost, "answers": answers}.get(name, peers)(name, checkpoint, work, sizes)
        )
    print(json.dumps([{"arm": name, **row} for row in rows]))


def documents_of(grit: GritLM, tokens: int, count: int = 1) -> list[str]:
    """Return `count` real texts of `tokens` tokens in all."""
    text = "\n\n".join(path.read_text() for path in sorted((CORPUS / "astronomy").rglob("*.*")))
    ids = grit.tokenize(text[: tokens * 12])
    each = tokens // count
    return [grit.checkpoint.tokenizer.decode(ids[at * each : (at + 1) * each]) for at in range(count)]


def questions_of(grit: GritLM, tokens: int) -> list[str]:
    """Return a question of `tokens` tokens for each turn, no two alike: only what is before them can be reused."""
    text = "What do these pages say about how it works, who found it, when, and why does that matter today? " * 3
    ids = grit.tokenize(text)
    return [grit.checkpoint.tokenizer.decode(ids[turn : turn + tokens]) for turn in range(1, WARM_UPS + REPEATS + 1)]


def repeat(answer: Answer, before: Callable[[int], object] = lambda turn: None) -> dict[str, list[float]]:
    """Run warm-ups and repeats; `before` is not timed."""
    first, whole = [], []
    for turn in range(WARM_UPS + REPEATS):
        before(turn)
        ttft, total = answer(turn)
        if turn >= WARM_UPS:
            first.append(ttft)
            whole.append(total)
    return {"ttft": first, "total": whole}


def ours(arm: Arm, checkpoint: str, work: Path, cells: list[Cell]) -> Iterator[dict[str, Any]]:
    """Answer through GritLM in one caching mode."""
    loaded = GritLM.from_pretrained(checkpoint, dtype="float32", device="cpu")
    for number, cell in enumerate(cells):
        documents, questions = documents_of(loaded, cell.document, arm.documents), questions_of(loaded, cell.question)
        path = work / f"kv-{number}"
        with KVCacheStore(path, precision=arm.precision) as store:
            grit = loaded.with_options(kv_store=store)
            if arm.tier in ("disk", "dropped"):
                grit.generate("?", documents, caching=arm.mode, decoding=Decoding(max_new_tokens=1))
        with KVCacheStore(None if arm.tier == "ram" else path, precision=arm.precision, ram_bytes=ram(arm)) as store:
            grit = loaded.with_options(kv_store=store)
            if arm.mode == "prefix" and arm.tier == "ram":
                grit.generate("?", documents, caching=arm.mode, decoding=Decoding(max_new_tokens=1))
            answer = OurAnswer(grit, arm, cell, documents, questions)
            row = repeat(answer, before=partial(answer.prepare, store, path))
        last = answer.last
        yield {
            **asdict(cell),
            **row,
            "reused": last.usage.cache_read_tokens / last.usage.prompt_tokens,
            "prompt": last.usage.prompt_tokens,
            "load": last.timings.load,
            "prefill": last.timings.prefill,
            "bytes": last.cache.bytes_read,
        }
        shutil.rmtree(path, ignore_errors=True)


class OurAnswer:
    """Questions about the same documents, one a turn."""

    last: Generation

    def __init__(self, grit: GritLM, arm: Arm, cell: Cell, documents: list[str], questions: list[str]) -> None:
        self._grit, self._arm, self._documents, self._questions = grit, arm, documents, questions
        self._decoding = Decoding(max_new_tokens=cell.new)

    def prepare(self, store: KVCacheStore, path: Path, turn: int) -> None:
        """Put the store into the state that the arm measures."""
        if self._arm.mode == "query":  # its retriever has embedded the question
            self._grit.with_options(caching="query").embed_queries([self._questions[turn]])
        if self._arm.mode == "prefix" and self._arm.tier == "none":
            store.flush()
            store.clear()
        if self._arm.tier == "dropped":
            drop_page_cache(path)

    def __call__(self, turn: int) -> tuple[float, float]:
        """Answer and return the seconds to the first and the last token."""
        began = time.perf_counter()
        self.last = self._grit.generate(
            self._questions[turn], self._documents, caching=self._arm.mode, decoding=self._decoding
        )
        total = time.perf_counter() - began
        assert self.last.usage.completion_tokens == self._decoding.max_new_tokens
        return self.last.timings.time_to_first_token, total


def ram(arm: Arm) -> str | int:
    """Return the RAM tier of the store that is timed: none where the disk is what is measured."""
    return "4GB" if arm.tier == "ram" else 0


def drop_page_cache(path: Path) -> None:
    """Make the kernel forget the files' pages."""
    for file in path.rglob("*.safetensors"):
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def limits(_: str, checkpoint: str, work: Path, cells: list[Cell]) -> Iterator[dict[str, Any]]:
    """Time what no cache can avoid: reading the suffix behind keys and values in RAM, and reading the bytes."""
    grit = GritLM.from_pretrained(checkpoint, dtype="float32", device="cpu")
    prefill = grit._loaded().prefill
    for cell in cells:
        if cell.new != min(other.new for other in cells):
            continue
        plan = grit.prompt(questions_of(grit, cell.question)[0], documents_of(grit, cell.document)).plan
        reading = prefill.begin(grit._session().cache.reuse(plan, "off"), room=256)
        prefill.advance(reading)
        held = reading.cache.get_seq_length()
        layers: Any = reading.cache.layers
        size = sum(layer.keys[:, :, :held].nbytes * 2 for layer in layers)
        file = work / "bytes"
        file.write_bytes(os.urandom(1 << 20) * (size // (1 << 20) + 1))
        compute = repeat(partial(read_suffix, prefill, reading, held))["ttft"]
        copied = repeat(partial(read_bytes, file, torch.empty(file.stat().st_size, dtype=torch.uint8)))["ttft"]
        yield {**asdict(cell), "suffix": len(plan.suffix), "compute": compute, "read": copied, "bytes": size}


def read_suffix(prefill: Prefill, reading: Reading, held: int, _: int) -> tuple[float, float]:
    """Time the forward pass of the suffix."""
    layers: Any = reading.cache.layers
    for layer in layers:
        layer.rewind(held)
    began = time.perf_counter()
    prefill.logits(reading.cache, reading.reuse.plan.suffix)
    return (time.perf_counter() - began,) * 2


def read_bytes(file: Path, target: torch.Tensor, _: int) -> tuple[float, float]:
    """Time copying a mapped file into memory that is there already."""
    began = time.perf_counter()
    target.copy_(torch.from_file(str(file), size=target.numel(), dtype=torch.uint8))
    return (time.perf_counter() - began,) * 2


def index_cost(_: str, checkpoint: str, work: Path, cells: list[Cell]) -> Iterator[dict[str, Any]]:
    """Time what a document costs when it is indexed, and count its bytes on disk."""
    grit = GritLM.from_pretrained(checkpoint, dtype="float32", device="cpu")
    for tokens in sorted({cell.document for cell in cells}):
        (document,) = documents_of(grit, tokens)
        for mode, precision in (("off", "native"), ("prefix", "native"), ("doc", "native"), ("doc", "int8")):
            seconds, stored = [], 0
            for turn in range(1 + 2):
                path = work / f"index-{turn}"
                with KVCacheStore(path, precision=precision) as store:
                    indexing = grit.with_options(kv_store=store, caching=mode)
                    began = time.perf_counter()
                    indexing.embed_documents([document])
                    if mode == "prefix":
                        indexing.cache_documents([document])
                    store.flush()
                    seconds.append(time.perf_counter() - began)
                    stored = store.stats().bytes
                shutil.rmtree(path)
            yield {"document": tokens, "mode": mode, "precision": precision, "seconds": seconds[1:], "bytes": stored}


def answers(_: str, __: str, work: Path, cells: list[Cell]) -> Iterator[dict[str, Any]]:
    """Say what each mode does to the answers of grit-mini on the demo's questions, each asked of its own page."""
    grit = GritLM.bundled(device="cpu")
    asked = [
        (row["question"], passage_about(grit, row), row["answer"])
        for row in json.loads((CORPUS / "questions.json").read_text())
    ]
    native: list[tuple[Caching, Precision]] = [(mode, "native") for mode in CACHINGS]
    said: dict[tuple[str, str], list[tuple[int, ...]]] = {}
    for mode, precision in [*native, ("prefix", "int8"), ("doc", "int8")]:
        stored = grit.with_options(kv_store=KVCacheStore(None, precision=precision))
        answer = partial(stored.generate, caching=mode, decoding=Decoding(max_new_tokens=16))
        cold = [answer(question, [document]).token_ids for question, document, _ in asked]
        warm = [answer(question, [document]).token_ids for question, document, _ in asked]
        said[mode, precision] = cold
        yield {
            "mode": mode,
            "precision": precision,
            "questions": len(asked),
            "nats": [loss_of(grit, mode, *row) for row in asked],
            "as_off": sum(one == other for one, other in zip(cold, said["off", "native"], strict=True)),
            "hit_as_miss": sum(one == other for one, other in zip(cold, warm, strict=True)),
        }


def passage_about(grit: GritLM, row: dict[str, Any]) -> str:
    """Return 400 tokens of a question's page around the expected phrase."""
    text = (CORPUS / row["sources"][0]).read_text()
    at = max(0, text.find(row["answer"]))
    ids = grit.tokenize(text[max(0, at - 900) :])[:400]
    return grit.checkpoint.tokenizer.decode(ids)


def loss_of(grit: GritLM, mode: Caching, question: str, document: str, phrase: str) -> float:
    """Return how surprised the model is by the expected phrase as its answer, in nats a token."""
    session = grit._session()
    engine, plan = session.engine, grit.prompt(question, [document], caching=mode).plan
    reading = engine.prefill.begin(session.cache.reuse(plan, mode), room=64)
    while not reading.done:
        engine.prefill.advance(reading)
    logits = engine.prefill.last_logits(reading)
    losses = []
    for token in grit.tokenize(phrase):
        losses.append(-float(torch.log_softmax(logits[0], -1)[token]))
        logits = engine.prefill.logits(reading.cache, (token,))
    return sum(losses) / len(losses)


def peers(name: str, checkpoint: str, work: Path, cells: list[Cell]) -> Iterator[dict[str, Any]]:
    """Answer with other libraries on the same checkpoint and the same token ids (KVBoost: the same text)."""
    tools = GritLM(checkpoint)
    make = {
        "transformers": plain_transformers,
        "transformers, deep-copied prefix cache": copied_prefix,
        "KVBoost float32": kvboost,
        "KVBoost float16 (its default)": kvboost,
    }[name]
    model = load_peer(name, checkpoint, work)
    for cell in cells:
        documents = documents_of(tools, cell.document)
        plans = [tools.prompt(each, documents).plan for each in questions_of(tools, cell.question)]
        answer, extra = make(model, tools, plans, cell.new)
        yield {**asdict(cell), **repeat(answer), **extra()}


def load_peer(name: str, checkpoint: str, work: Path) -> Any:
    """Load a peer's model; KVBoost refuses a sliding window, so it is cleared in a copy of the config."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    copy_of = Path(shutil.copytree(checkpoint, work / "peer"))
    config = json.loads((copy_of / "config.json").read_text()) | {"sliding_window": None}
    config.pop("auto_map", None)
    (copy_of / "config.json").write_text(json.dumps(config))
    dtype = torch.float16 if "float16" in name else torch.float32
    model = AutoModelForCausalLM.from_pretrained(copy_of, dtype=dtype).eval()
    if not name.startswith("KVBoost"):
        return model
    from kvboost import KVBoost

    return KVBoost(model=model, tokenizer=AutoTokenizer.from_pretrained(copy_of), device="cpu", max_cache_bytes=4 << 30)


class FirstToken:
    """A transformers streamer that notes when the first new token comes."""

    def __init__(self) -> None:
        self.puts: list[float] = []

    def put(self, _: object) -> None:
        """Note the time; the first call brings the prompt."""
        self.puts.append(time.perf_counter())

    def end(self) -> None:
        """Do nothing."""


def generate(model: Any, ids: torch.Tensor, new: int, **options: Any) -> tuple[float, float]:
    """Generate greedily and return the seconds to the first and the last token."""
    streamer = FirstToken()
    began = time.perf_counter()
    model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False,
        pad_token_id=0, streamer=streamer, **options,
    )  # fmt: skip
    return streamer.puts[1] - began, time.perf_counter() - began


def plain_transformers(
    model: Any, _: GritLM, plans: list[Plan], new: int
) -> tuple[Answer, Callable[[], dict[str, Any]]]:
    """Return what ChatHuggingFace does: `generate` on the whole prompt."""
    return lambda turn: generate(model, torch.tensor([plans[turn].prompt_ids]), new), dict


def copied_prefix(model: Any, _: GritLM, plans: list[Plan], new: int) -> tuple[Answer, Callable[[], dict[str, Any]]]:
    """Return what transformers' documentation shows: a DynamicCache of the prefix, deep-copied for each prompt."""
    from transformers import DynamicCache

    prefix = DynamicCache()
    with torch.inference_mode():
        model(torch.tensor([plans[0].blocks[0].ids]), past_key_values=prefix, use_cache=True)

    def answer(turn: int) -> tuple[float, float]:
        began = time.perf_counter()
        cache = copy.deepcopy(prefix)
        copied = time.perf_counter() - began
        ids = torch.tensor([plans[turn].prompt_ids])
        ttft, total = generate(model, ids, new, past_key_values=cache)
        return ttft + copied, total + copied

    return answer, dict


def kvboost(boost: Any, tools: GritLM, plans: list[Plan], new: int) -> tuple[Answer, Callable[[], dict[str, Any]]]:
    """Return KVBoost with the document warmed up."""
    decode = tools.checkpoint.tokenizer.hf.decode
    boost.warm(decode(plans[0].blocks[0].ids[1:]))
    texts = [decode(plan.prompt_ids[1:]) for plan in plans]
    reused: list[float] = []

    def answer(turn: int) -> tuple[float, float]:
        began = time.perf_counter()
        result = boost.generate(texts[turn], max_new_tokens=new)
        reused.append(result.kv_reuse_ratio)
        return result.ttft_ms / 1e3, time.perf_counter() - began

    return answer, lambda: {"reused": reused[-1]}


if __name__ == "__main__":
    main()
