"""Reranking from the store: the bits of a miss, and blocks shared with answers and embeddings."""

from __future__ import annotations

from pathlib import Path

import pytest
from passages import PASSAGES, QUERY, Make, logits

from grit_integrations import Decoding, KVCacheStore
from grit_integrations.options import ORDERS, Caching, Order


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
        prefill, read = grit._loaded().prefill, []
        original = prefill._compute
        monkeypatch.setattr(prefill, "_compute", lambda *given: (read.append(given), original(*given))[1])
        monkeypatch.setattr(grit._loaded().encoder, "batch_tokens", 200)  # several batches
        grit.rerank(QUERY, PASSAGES, order="query-first")
        assert len(read) == 1 and store.stats().ram_blocks == 0
        grit.rerank(QUERY, PASSAGES, order="passage-first")
        assert len(read) == 5 and store.stats().ram_blocks == 0
