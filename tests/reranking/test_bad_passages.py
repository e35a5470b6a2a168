"""What cannot be ranked is refused before any work; what is odd or too long loses no passage."""

from __future__ import annotations

import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import write_checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from passages import PASSAGES, QUERY

from grit_integrations import GritLM
from grit_integrations.errors import (
    ContextOverflowError,
    EmptyTextError,
    GritError,
    OptionError,
    PromptError,
    RerankError,
)
from grit_integrations.options import ORDERS, Order


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
