"""The cache-aware rows: one dense training pass computes what inference computes block by block."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from checkpoints import write_checkpoint
from hypothesis import given
from hypothesis import strategies as st

from grit_integrations import Decoding, GritLM
from grit_integrations.options import CACHINGS, Caching
from grit_integrations.prompts.formats import merge_turns
from grit_integrations.prompts.layout import lay_out
from grit_integrations.prompts.plan import Plan, PlannedBlock, plan_prompt
from grit_integrations.training.rows.dense_prompts import dense_prompt, pad_prompts

DOCUMENTS = ("The heart pumps blood through the body.", "Distant stars burn for billions of years.")
QUESTION = "What pumps blood?"


@pytest.fixture(scope="module")
def grit(tmp_path_factory: pytest.TempPathFactory) -> GritLM:
    return GritLM(write_checkpoint(tmp_path_factory.mktemp("model")), device="cpu", dtype="float32")


@pytest.mark.parametrize("caching", CACHINGS)
@pytest.mark.parametrize("count", [1, 2])
def test_predicts_what_inference_predicts_from_blocks(grit: GritLM, caching: Caching, count: int) -> None:
    documents = DOCUMENTS[:count]
    decoding = Decoding(max_new_tokens=4, logprobs=0)
    generation = grit.generate(QUESTION, documents, caching=caching, decoding=decoding)
    written = generation.token_ids
    tokenizer = grit.checkpoint.tokenizer
    plan = plan_prompt(lay_out(merge_turns(QUESTION), documents, caching=caching), tokenizer)
    batch = pad_prompts([dense_prompt(plan, written), dense_prompt(plan, (*written, *written))], pad=0)
    with torch.inference_mode():
        output = grit.lm(input_ids=batch.ids, position_ids=batch.positions, attention_mask=batch.seen, use_cache=False)
    length = len(dense_prompt(plan, written).ids)
    logits = output.logits[0, length - len(written) - 1 : length - 1].log_softmax(dim=-1)
    for index, (token, logprob) in enumerate(zip(written, generation.logprobs, strict=True)):
        assert float(logits[index, token]) == pytest.approx(logprob.logprob, abs=1e-4)


blocks = st.builds(
    lambda ids, bidirectional, drop: PlannedBlock(
        tuple(ids), "bidirectional" if bidirectional else "causal", drop=min(drop, len(ids) - 1) if bidirectional else 0
    ),
    st.lists(st.integers(0, 9), min_size=1, max_size=6),
    st.booleans(),
    st.integers(0, 2),
)


@given(st.lists(blocks, max_size=4), st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(0, 3))
def test_a_token_sees_its_block_and_what_the_prompt_holds(
    planned: list[PlannedBlock], suffix: list[int], answer: int
) -> None:
    plan = Plan(tuple(planned), tuple(suffix))
    prompt = dense_prompt(plan, [7] * answer)
    assert len(prompt.ids) == len(prompt.positions) == len(prompt.seen)
    dropped = sum(block.drop for block in planned)
    tail = len(suffix) + answer
    assert list(prompt.positions[-tail:]) == list(range(len(plan) - len(suffix), len(plan) + answer))
    assert int(prompt.seen[-1].sum()) == len(prompt.ids) - dropped  # the last token sees all but what was dropped
    assert bool(prompt.seen.diagonal().all())
    row = 0
    for block in planned:
        own = prompt.seen[row : row + len(block.ids)]
        if block.pattern == "bidirectional":
            assert int(own.sum()) == len(block.ids) ** 2
        row += len(block.ids)


def test_padding_sees_itself_alone_and_is_seen_by_nothing() -> None:
    rng = random.Random(0)
    prompts = [dense_prompt(Plan((), tuple(rng.choices(range(9), k=size))), []) for size in (3, 7)]
    batch = pad_prompts(prompts, pad=5)
    assert batch.ids[0, 3:].tolist() == [5] * 4
    assert bool((batch.seen[0, 0, :3, 3:] == 0).all())
    assert batch.seen[0, 0, 3:].sum().item() == 4


def test_the_module_stays_free_of_inference(tmp_path: Path) -> None:
    assert dense_prompt(Plan((), (1, 2)), [3]).seen.tolist() == torch.ones(3, 3).tril().bool().tolist()
