"""A reader that starts as a judge: it sees at once which passage has the question's words, and still writes."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch

from grit_integrations.evaluation.labelled_texts import PromptEncoder
from grit_integrations.prompts.formats import USER, Segment, Special
from grit_integrations.prompts.plan import plan_prompt
from grit_integrations.reranking.wording import verdict_ids, verdict_parts
from grit_integrations.training.config import READER_WORKSPACE
from grit_integrations.training.rows.dense_prompts import dense_prompt
from grit_integrations.training.start.bpe_tokenizer import load_tokenizer
from grit_integrations.training.start.causal_lm import load_model
from grit_integrations.training.start.from_nothing.judge import start_as_judge
from grit_integrations.training.start.from_nothing.workspace import unfold_workspace

MINI = Path(str(files("grit_integrations"))) / "bundled" / "grit-mini"
ANSWERED = {
    "What pumps blood through the vessels?": "The heart pumps blood through the vessels of the body.",
    "Why does hydrogen turn into helium?": "Stars shine because hydrogen turns into helium in their core.",
    "How is a telescope's mirror coated?": "A telescope's mirror is coated with a thin layer of aluminium.",
    "Who drafted the Declaration of Independence?": "Jefferson drafted the Declaration of Independence in June 1776.",
    "How often does the Moon orbit the Earth?": "The Moon orbits the Earth once in about 27 days.",
}


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    return PromptEncoder(load_tokenizer(MINI))


@pytest.fixture(scope="module")
def judge(encoder: PromptEncoder) -> Any:
    """The bundled reader, its judging heads set anew."""
    model: Any = load_model(MINI)
    unfold_workspace(model, READER_WORKSPACE)
    yes, no = verdict_ids(encoder.prompts)
    begin, user, *_ = encoder.parts([Special.BOS, Segment(USER)])
    start_as_judge(model, begin=begin, user=user, yes=yes, no=no, seed=0)
    return model


def margin(model: Any, encoder: PromptEncoder, query: str, passage: str) -> float:
    """Return the logit of yes over that of no, with the passage read by itself."""
    parts = verdict_parts(query, passage, order="passage-block", prompts=encoder.prompts.format)
    row = dense_prompt(plan_prompt(parts, encoder.prompts), ())
    with torch.inference_mode():
        logits = model(
            input_ids=torch.tensor([row.ids]),
            attention_mask=row.seen[None, None],
            position_ids=torch.tensor([row.positions]),
            logits_to_keep=1,
        ).logits[0, -1]
    yes, no = verdict_ids(encoder.prompts)
    return float(logits[yes] - logits[no])


def test_a_passage_with_the_question_s_words_gets_a_yes(judge: Any, encoder: PromptEncoder) -> None:
    """Before any training, so only on the whole: some questions and some passages get more of a yes than others."""
    margins = torch.tensor(
        [[margin(judge, encoder, query, passage) for passage in ANSWERED.values()] for query in ANSWERED]
    )
    own, count = margins.diagonal(), len(ANSWERED)
    assert float(own.mean()) > float((margins.sum() - own.sum()) / (count * (count - 1))) + 0.5
    besides = margins - margins.mean(dim=0) - margins.mean(dim=1, keepdim=True) + margins.mean()
    assert bool((besides.diagonal() > 0).all()), margins


def test_what_it_writes_stays_finite(judge: Any, encoder: PromptEncoder) -> None:
    ids = encoder.parts([Special.BOS, Segment(USER), Segment("The Moon orbits the Earth.", content=True)])
    with torch.inference_mode():
        logits = judge(input_ids=torch.tensor([ids])).logits
    assert bool(torch.isfinite(logits).all())
    assert float(logits.float().softmax(-1).max()) < 1.0
