"""Pointwise reranking: the reference's scores, the same bits from stored blocks, and no input that loses a passage."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import write_checkpoint
from dense import dense_logits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from grit_integrations import Decoding, GritLM, KVCacheStore, Ranked
from grit_integrations.errors import (
    ContextOverflowError,
    EmptyTextError,
    GritError,
    ModelLoadError,
    OptionError,
    PromptError,
    RerankError,
)
from grit_integrations.generation import Caching
from grit_integrations.planning import plan_prompt
from grit_integrations.reranking.prompts import ORDERS, Order, verdict_ids, verdict_parts

REFERENCE = (
    "<|user|>\nGiven a query and a passage, judge whether the passage is relevant to the query or not.\n\n"
    "Query: {query}\nPassage: {passage}\n\n"
    "Answer with yes if the passage is relevant to the query, and no otherwise.\n<|assistant|>\nAnswer:"
)
WORDS = ["The", "heart", "pumps", "blood", "stars", "burn", "12.5", "über", "你好", "mill,", "(see", "hill)", "\n", "a"]
QUERY = "What pumps the blood?"
PASSAGES = [
    "The heart pumps blood through the vessels of the body. " * 4,
    "Stars burn hydrogen for billions of years until it runs out. " * 5,
    "Snow is cold.",
    "The mill stands by the hill, and its sails turn in the wind. " * 2,
]

Make = Callable[..., GritLM]


@pytest.fixture
def make(tiny_path: Path) -> Make:
    """Objects that share the tiny model's weights, each with a store of its own."""

    def grit(store: KVCacheStore | None = None, **options: Any) -> GritLM:
        store = KVCacheStore(None, ram_bytes="64MB") if store is None else store
        return GritLM.from_pretrained(tiny_path, kv_store=store, **options)

    return grit


async def idle(grit: GritLM) -> bool:
    """Wait until the worker has nothing left and no thread waits for it."""
    scheduler = grit._loaded().scheduler
    for _ in range(1000):
        calls = any(thread.name.startswith("grit-call") for thread in threading.enumerate())
        if not (calls or scheduler._judges or scheduler._generates or scheduler._encodes):
            return True
        await asyncio.sleep(0.01)
    return False


def logits(grit: GritLM, query: str, passages: Sequence[str], order: Order, **options: Any) -> list[float]:
    """Return the raw scores in the order of the passages."""
    found = {each.index: each.score for each in grit.rerank(query, passages, order=order, score="logit", **options)}
    return [found[index] for index in range(len(passages))]


def some_text(rng: random.Random, longest: int) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, longest))) + " end"


# What a score is


@pytest.mark.parametrize("kind", ["mistral", "llama", "qwen3", "mixtral"])
def test_the_order_is_that_of_the_reference_s_raw_logits(tmp_path: Path, kind: str) -> None:
    """50 random cases on each of four random checkpoints, against stock transformers on the reference's one string."""
    path = write_checkpoint(tmp_path / kind, kind, seed=len(kind))
    grit, rng = GritLM.from_pretrained(path, dtype="float32"), random.Random(kind)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    for _ in range(50):
        query, passages = some_text(rng, 8), [some_text(rng, 40) for _ in range(4)]
        wanted = []
        for passage in passages:
            ids = tokenizer(REFERENCE.format(query=query, passage=passage), return_tensors="pt").input_ids
            with torch.inference_mode():
                wanted.append(float(model(ids, logits_to_keep=1).logits[0, -1, 5081]))
        found = grit.rerank(query, passages, order="query-first", score="logit")
        assert [each.score for each in found] == pytest.approx([wanted[each.index] for each in found], abs=1e-4)
        reference = sorted(range(4), key=lambda index: -wanted[index])
        if min(abs(a - b) for a in wanted for b in wanted if a is not b) > 2e-4:
            assert [each.index for each in found] == reference


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kernel", [None, "eager", "sdpa"])
def test_prompts_read_together_give_what_each_gives_alone(tiny_path: Path, order: Order, kernel: str | None) -> None:
    grit = GritLM.from_pretrained(tiny_path, dtype="float32", attn_implementation=kernel)
    tokenizer = grit.checkpoint.tokenizer
    yes, no = verdict_ids(tokenizer)
    lm = GritLM.from_pretrained(tiny_path, dtype="float32").lm  # eager adds a mask of booleans as if of numbers
    alone = [
        dense_logits(lm, plan_prompt(verdict_parts(QUERY, passage, order=order), tokenizer)) for passage in PASSAGES
    ]
    assert logits(grit, QUERY, PASSAGES, order) == pytest.approx([float(each[yes]) for each in alone], abs=1e-5)
    shares = {each.index: each.score for each in grit.rerank(QUERY, PASSAGES, order=order)}
    wanted = [math.exp(each[yes]) / (math.exp(each[yes]) + math.exp(each[no])) for each in alone]
    assert [shares[index] for index in range(len(PASSAGES))] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("order", ORDERS)
def test_a_score_does_not_depend_on_the_batch(tiny: GritLM, order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(order)
    passages = [some_text(rng, 60) for _ in range(12)]
    together = logits(tiny, QUERY, passages, order)
    one_by_one = [logits(tiny, QUERY, [passage], order)[0] for passage in passages]
    assert together == pytest.approx(one_by_one, abs=1e-5)
    monkeypatch.setattr(tiny._loaded().scheduler._encoder, "batch_tokens", 200)
    assert together == pytest.approx(logits(tiny, QUERY, passages, order), abs=1e-5)


def test_cosines_are_added_to_the_verdict(tiny: GritLM) -> None:
    cosines = {each.index: each.score for each in tiny.rerank(QUERY, PASSAGES, method="embedding", instruction="Find")}
    plain = {each.index: each.score for each in tiny.rerank(QUERY, PASSAGES)}
    vectors = tiny.embed_documents(PASSAGES)
    for known in (None, vectors):
        both = tiny.rerank(QUERY, PASSAGES, cosine=3.0, instruction="Find", passage_vectors=known)
        for each in both:
            odds = math.log(plain[each.index] / (1 - plain[each.index])) + 3.0 * cosines[each.index]
            assert each.score == pytest.approx(1 / (1 + math.exp(-odds)), abs=1e-5)
    logits = {each.index: each.score for each in tiny.rerank(QUERY, PASSAGES, score="logit")}
    for each in tiny.rerank(QUERY, PASSAGES, score="logit", cosine=2.0, instruction="Find"):
        assert each.score == pytest.approx(logits[each.index] + 2.0 * cosines[each.index], abs=1e-4)


@pytest.mark.parametrize("options", [{"cosine": -1.0}, {"cosine": math.nan}, {"cosine": 1.0, "method": "listwise"}])
def test_an_impossible_cosine_is_refused(tiny: GritLM, options: Any) -> None:
    with pytest.raises(OptionError, match="cosine="):
        tiny.rerank(QUERY, PASSAGES, **options)


def test_scores_of_all_passages_are_probabilities(mini: GritLM) -> None:
    scores = mini.rerank("What pumps the blood?", PASSAGES[:3])
    assert sorted(each.index for each in scores) == [0, 1, 2]
    assert all(0 <= each.score <= 1 for each in scores)


# Blocks


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize(("order", "caching"), [(o, c) for o in ORDERS for c in ("prefix", "doc")])
def test_a_hit_gives_the_bits_of_a_miss(
    make: Make, tmp_path: Path, order: Order, caching: Caching, on_disk: bool
) -> None:
    off = logits(make(caching="off"), QUERY, PASSAGES, order)
    with KVCacheStore(tmp_path if on_disk else None) as store:
        miss = logits(make(store, caching=caching), QUERY, PASSAGES, order)
        hit = logits(make(store, caching=caching), QUERY, PASSAGES, order)
        assert store.stats().hits_ram >= (1 if order == "query-first" else len(PASSAGES))
        half = logits(make(store, caching=caching), QUERY + "!", PASSAGES, order)
    assert off == miss == hit
    assert half == logits(make(caching="off"), QUERY + "!", PASSAGES, order)
    if on_disk and order != "query-first":
        with KVCacheStore(tmp_path) as store:
            assert logits(make(store, caching=caching), QUERY, PASSAGES, order) == off
            assert store.stats().hits_disk == len(PASSAGES) - 1  # one is too short to be kept there


def test_a_lost_block_changes_no_other_score(make: Make) -> None:
    with KVCacheStore(None) as store:
        grit = make(store, caching="prefix")
        logits(grit, QUERY, PASSAGES[:2], "passage-first")
        mixed = logits(grit, QUERY, PASSAGES, "passage-first")  # two are stored, two are not
    assert mixed == logits(make(caching="off"), QUERY, PASSAGES, "passage-first")


def test_int8_blocks_give_equal_bits_as_well(make: Make) -> None:
    with KVCacheStore(None, precision="int8") as store:
        for order in ORDERS:
            miss = logits(make(store), QUERY, PASSAGES, order)
            assert logits(make(store), QUERY, PASSAGES, order) == miss


@pytest.mark.parametrize(
    ("order", "caching"), [("passage-first", "prefix"), ("passage-block", "doc"), ("passage-block", "query-doc")]
)
def test_reranking_and_answers_start_from_each_other_s_blocks(make: Make, order: Order, caching: Caching) -> None:
    short = Decoding(max_new_tokens=2)
    with KVCacheStore(None) as store:
        grit = make(store, caching=caching)
        grit.rerank(QUERY, PASSAGES, order=order)
        assert grit.stored(PASSAGES) == [True] * 4
        assert grit.generate(QUERY, PASSAGES[:1], decoding=short, caching=caching).cache.hits >= 1
    with KVCacheStore(None) as store:
        grit = make(store, caching=caching)
        for passage in PASSAGES:
            grit.generate(QUERY, [passage], decoding=short)
        before = store.stats()
        grit.rerank(QUERY, PASSAGES, order=order)
        assert store.stats().ram_blocks == before.ram_blocks  # nothing was computed that was not there
        assert store.stats().hits_ram >= before.hits_ram + 4


def test_embedded_documents_are_stored_when_they_are_reranked(make: Make) -> None:
    with KVCacheStore(None) as store:
        grit = make(store, caching="doc")
        grit.embed_documents(PASSAGES)
        before = store.stats()
        assert before.ram_blocks == 4
        grit.rerank(QUERY, PASSAGES, order="passage-block")
        assert store.stats().ram_blocks == 4 and store.stats().hits_ram == before.hits_ram + 4
    with KVCacheStore(None) as store:  # the pass that gives the cosine is the one that the verdict starts from
        make(store, caching="doc").rerank(QUERY, PASSAGES, order="passage-block", cosine=5.0)
        assert store.stats().ram_blocks == store.stats().hits_ram == 4


def test_without_caching_nothing_is_kept_and_the_query_is_read_once(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with KVCacheStore(None) as store:
        grit = make(store, caching="off")
        prefill, read = grit._loaded().scheduler._prefill, []
        original = prefill._compute
        monkeypatch.setattr(prefill, "_compute", lambda *given: (read.append(given), original(*given))[1])
        monkeypatch.setattr(grit._loaded().scheduler._encoder, "batch_tokens", 200)  # several batches
        grit.rerank(QUERY, PASSAGES, order="query-first")
        assert len(read) == 1 and store.stats().ram_blocks == 0
        grit.rerank(QUERY, PASSAGES, order="passage-first")
        assert len(read) == 5 and store.stats().ram_blocks == 0


# The default order


def test_the_checkpoint_s_own_order_is_the_default(tiny_path: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_path, tmp_path / "m"))
    (path / "grit_config.json").write_text(json.dumps({"reranking_order": "passage-block"}))
    grit = GritLM.from_pretrained(path)
    assert grit.rerank(QUERY, PASSAGES) == grit.rerank(QUERY, PASSAGES, order="passage-block")
    (path / "grit_config.json").write_text(json.dumps({"reranking_order": "last-first"}))
    with pytest.raises(ModelLoadError, match=r"'last-first'.*query-first, passage-first, passage-block"):
        GritLM(path).rerank(QUERY, PASSAGES)
    assert len(GritLM(path).rerank(QUERY, PASSAGES, order="query-first")) == 4


def test_without_one_it_is_the_reference_s(tiny: GritLM) -> None:
    assert tiny.rerank(QUERY, PASSAGES) == tiny.rerank(QUERY, PASSAGES, order="query-first")


# What comes back


def test_the_best_come_first_and_ties_stay(tiny: GritLM) -> None:
    twice = [*PASSAGES, *PASSAGES]
    ranking = tiny.rerank(QUERY, twice)
    assert [each.score for each in ranking] == sorted((each.score for each in ranking), reverse=True)
    assert sorted(each.index for each in ranking) == list(range(8))
    for first, second in zip(ranking[::2], ranking[1::2], strict=True):
        assert (second.index, second.score) == (first.index + 4, first.score)
    assert tiny.rerank(QUERY, twice, top_n=3) == ranking[:3]
    assert tiny.rerank(QUERY, twice, top_n=99) == ranking


def test_equal_passages_are_judged_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    grit, counts = make(), []
    scheduler = grit._loaded().scheduler
    original = scheduler.judge
    monkeypatch.setattr(scheduler, "judge", lambda *a, **o: (counts.append(len(a[0])), original(*a, **o))[1])
    assert len(grit.rerank(QUERY, ["a", "b", "a", " ", "a"])) == 5
    assert counts == [2]


@pytest.mark.parametrize(
    ("options", "lowest"),
    [
        ({}, 0.0),
        ({"score": "logit"}, -math.inf),
        ({"method": "listwise"}, 0.0),
        ({"method": "embedding"}, -1.0),
    ],
)
def test_blank_passages_come_last_and_are_not_lost(tiny: GritLM, options: Any, lowest: float) -> None:
    ranking = tiny.rerank(QUERY, [" ", PASSAGES[0], "", PASSAGES[1], "\n"], **options)
    assert ranking[2:] == [Ranked(0, lowest), Ranked(2, lowest), Ranked(4, lowest)]
    assert {each.index for each in ranking[:2]} == {1, 3}
    assert [each.index for each in tiny.rerank(QUERY, [" ", ""], **options)] == [0, 1]


def test_no_passages_no_ranking() -> None:
    assert GritLM("no such model").rerank(QUERY, []) == []


def test_a_thousand_passages(tiny: GritLM) -> None:
    rng = random.Random(0)
    passages = [f"{index} {some_text(rng, 12)}" for index in range(1000)]
    ranking = tiny.rerank(QUERY, passages)
    assert sorted(each.index for each in ranking) == list(range(1000))


def test_vectors_belong_to_their_passages(tiny: GritLM) -> None:
    passages = [PASSAGES[0], " ", PASSAGES[1], PASSAGES[0]]
    vectors = tiny.embed_documents([PASSAGES[0], "x", PASSAGES[1], PASSAGES[0]])
    given = tiny.rerank(QUERY, passages, method="embedding", passage_vectors=vectors)
    made = tiny.rerank(QUERY, passages, method="embedding")
    assert [each.index for each in given] == [each.index for each in made]
    assert [each.score for each in given] == pytest.approx([each.score for each in made], abs=1e-5)


# Bad input


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((" ", ["a"]), {}, EmptyTextError, "query"),
        ((" ", []), {}, EmptyTextError, "query"),
        ((3, ["a"]), {}, PromptError, "query is a int"),
        ((QUERY, "a passage"), {}, PromptError, r"\[text\]"),
        ((QUERY, ["a", None]), {}, PromptError, "Passage 1 is a NoneType"),
        ((QUERY, ["a", "b", "c\0"]), {}, PromptError, "Passage 2 has a NUL"),
        ((QUERY, ["\ud800"]), {}, PromptError, "Passage 0 has a lone surrogate"),
        ((QUERY, ["a"]), {"top_n": 0}, OptionError, "top_n=0"),
        ((QUERY, ["a"]), {"top_n": True}, OptionError, "top_n=True"),
        ((QUERY, ["a"]), {"top_n": "3"}, OptionError, "top_n='3'"),
        ((QUERY, ["a"]), {"method": "best"}, OptionError, "'best'.*pointwise"),
        ((QUERY, ["a"]), {"order": "last"}, OptionError, "'last'.*passage-block"),
        ((QUERY, ["a"]), {"score": "nats"}, OptionError, "'nats'.*logit"),
        ((QUERY, ["a"]), {"passage_tokens": 0}, OptionError, "passage_tokens=0"),
        ((QUERY, ["a"]), {"passage_vectors": [[1.0]]}, OptionError, "method='embedding'"),
        ((QUERY, ["a"]), {"passage_vectors": [[1.0], [2.0]], "method": "embedding"}, OptionError, "1 passages need"),
        ((QUERY, ["a"]), {"passage_vectors": ["x"], "method": "embedding"}, OptionError, "no array of numbers"),
    ],
)
def test_bad_input_is_refused_before_any_work(arguments: Any, options: Any, error: type[GritError], words: str) -> None:
    with pytest.raises(error, match=words):
        GritLM("no such model").rerank(*arguments, **options)


def test_a_tokenizer_without_a_token_for_yes_is_refused(tiny_path: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_path, tmp_path / "m"))
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["▁yesyes"] = vocabulary.pop("▁yes")
    merges = tokenizer["model"]["merges"]
    tokenizer["model"]["merges"] = [merge for merge in merges if "▁yes" not in ("".join(merge), *merge)]
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    grit = GritLM(path)
    with pytest.raises(OptionError, match=r"' yes'.*embedding"):
        grit.rerank(QUERY, PASSAGES)
    assert not grit.is_loaded


def test_a_kernel_without_masks_is_refused(tiny: GritLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny.lm.config, "_attn_implementation", "flash_attention_2")
    with pytest.raises(OptionError, match=r"'flash_attention_2'.*sdpa.*embedding"):
        tiny.rerank(QUERY, PASSAGES)


def test_scores_that_are_not_numbers_put_nothing_in_order(tmp_path: Path) -> None:
    grit = GritLM.from_pretrained(write_checkpoint(tmp_path / "m", seed=3))
    with torch.inference_mode():
        grit.lm.get_output_embeddings().weight[5081] = math.nan
    with pytest.raises(RerankError, match=r"not a finite number.*float32"):
        grit.rerank(QUERY, PASSAGES)


@pytest.mark.parametrize("order", ORDERS)
def test_long_passages_lose_their_end(
    tmp_path: Path, tiny_path: Path, order: Order, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_checkpoint(tmp_path / "m", max_position_embeddings=256)
    grit = GritLM.from_pretrained(path)
    long = "The heart pumps blood. " * 2000
    with caplog.at_level(logging.WARNING):
        ranking = grit.rerank(QUERY, [PASSAGES[2], long, PASSAGES[0]], order=order)
    assert "1 of 3 passages were cut" in caplog.text
    caplog.clear()
    assert sorted(each.index for each in ranking) == [0, 1, 2]
    with caplog.at_level(logging.WARNING):
        cut = grit.rerank(QUERY, [long, "The heart pumps blood. The heart"], order=order, passage_tokens=7)
    assert cut[0].score == pytest.approx(cut[1].score, abs=1e-5)
    assert not caplog.records
    with pytest.raises(ContextOverflowError, match=r"query.*256"):
        grit.rerank("What pumps it? " * 80, PASSAGES, order=order)
    with pytest.raises(ContextOverflowError, match="query"):
        grit.rerank("What pumps it? " * 80_000, PASSAGES, order=order)


PIECES = [
    "<|user|>",
    "</s>",
    "<s>",
    "<|assistant|>\n",
    "Answer: yes",
    "\n",
    " ",
    "heart",
    "é",
    "🫀",
    "\u200b",
    "ﬁ",
    "\t",
]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    query=st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join),
    passages=st.lists(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), max_size=6),
    order=st.sampled_from(ORDERS),
    limit=st.sampled_from([None, 1, 3]),
)
def test_odd_texts_lose_no_passage(
    tiny: GritLM, query: str, passages: list[str], order: Order, limit: int | None
) -> None:
    if not query.strip():
        with pytest.raises(EmptyTextError):
            tiny.rerank(query, passages, order=order)
        return
    ranking = tiny.rerank(query, passages, order=order, passage_tokens=limit)
    assert sorted(each.index for each in ranking) == list(range(len(passages)))
    assert all(0 <= each.score <= 1 for each in ranking)


# Beside other work


async def test_async_equals_sync(tiny: GritLM) -> None:
    for options in ({}, {"order": "passage-block"}, {"method": "listwise"}, {"method": "embedding"}):
        wanted = tiny.rerank(QUERY, PASSAGES, **options)
        found = await tiny.arerank(QUERY, PASSAGES, **options)
        assert [each.index for each in found] == [each.index for each in wanted]
        assert [each.score for each in found] == pytest.approx([each.score for each in wanted], abs=1e-5)
    with pytest.raises(EmptyTextError):
        await tiny.arerank(" ", PASSAGES)


@pytest.mark.parametrize("options", [{}, {"method": "listwise"}, {"method": "embedding"}])
async def test_cancelling_stops_the_work_and_the_loop_never_waits(make: Make, options: Any) -> None:
    grit = make(caching="off")
    passages = [f"{index} {PASSAGES[0]}" for index in range(4000)]
    task = asyncio.create_task(grit.arerank(QUERY, passages, **options))
    await asyncio.sleep(0.3)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await idle(grit)


async def test_roles_do_not_disturb_each_other(tiny: GritLM) -> None:
    short = Decoding(max_new_tokens=20)
    answer = tiny.generate(QUERY, PASSAGES[:2], decoding=short)
    ranking = tiny.rerank(QUERY, PASSAGES)
    vectors = tiny.embed_documents(PASSAGES)
    jobs: list[Any] = []
    for _ in range(6):
        jobs += [
            tiny.agenerate(QUERY, PASSAGES[:2], decoding=short),
            tiny.arerank(QUERY, PASSAGES),
            tiny.aembed_documents(PASSAGES),
        ]
    found = await asyncio.gather(*jobs)
    assert all(each.token_ids == answer.token_ids for each in found[::3])
    assert all(each == ranking for each in found[1::3])
    assert all(abs(each - vectors).max() < 1e-6 for each in found[2::3])


def test_an_error_reaches_only_its_caller(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    grit = make(caching="off")

    def failing(*_: Any) -> None:
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr("grit_integrations.verdicts.tail_logits", failing)
        with pytest.raises(RuntimeError, match="no memory"):
            grit.rerank(QUERY, PASSAGES)
    assert len(grit.rerank(QUERY, PASSAGES)) == 4


def test_unloading_ends_a_reranking(tmp_path: Path) -> None:
    grit = GritLM.from_pretrained(write_checkpoint(tmp_path / "m", seed=5))
    scheduler, failed = grit._loaded().scheduler, []

    def rank() -> None:
        try:
            grit.rerank(QUERY, [f"{index} {PASSAGES[0]}" for index in range(2000)])
        except GritError as error:
            failed.append(str(error))

    thread = threading.Thread(target=rank)
    thread.start()
    while not scheduler._judges:
        thread.join(0.01)
    scheduler.close()
    thread.join(30)
    assert failed and "unloaded" in failed[0]
