"""The paper's ablations by config: attention patterns, pooling, projection; what the export says of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes import tiny_recipe
from torch import Tensor

from grit_integrations import GritLM
from grit_integrations.engine.encoder import pool
from grit_integrations.evaluation.labelled_texts import text_batch
from grit_integrations.evaluation.row_kinds import TextRow
from grit_integrations.pooling import POOLINGS
from grit_integrations.prompts.requests import prompt_of
from grit_integrations.training import TrainConfig, train
from grit_integrations.training.attention_masks import bidirectional_then_causal, causal_then_bidirectional
from grit_integrations.training.config import Attention
from grit_integrations.training.rows.batches import embedding_inputs
from grit_integrations.training.trainer import Run

LENGTHS = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), min_size=1, max_size=4)


@settings(deadline=None)
@given(rows=LENGTHS)
def test_masks_say_who_sees_whom(rows: list[tuple[int, int]]) -> None:
    width = max(map(sum, rows))
    attended = torch.tensor([[1] * sum(row) + [0] * (width - sum(row)) for row in rows])
    prompt = torch.tensor([before for before, _ in rows])
    text_sees, prompt_sees = causal_then_bidirectional(attended, prompt), bidirectional_then_causal(attended, prompt)
    for row, (before, behind) in enumerate(rows):
        for at in range(before + behind):
            for other in range(width):
                real = other < before + behind
                assert bool(text_sees[row, 0, at, other]) == (real and (other <= at or at >= before))
                assert bool(prompt_sees[row, 0, at, other]) == (other <= at or (at < before and other < before))


def random_run(output: Path, attention: Attention = "bbcc", **model: object) -> Run:
    config = tiny_recipe(output, bag_steps=0)
    changes = {"start": "random", "attention": attention, **model}
    run = Run(dataclasses.replace(config, model=dataclasses.replace(config.model, **changes)))
    for parameter in run.module.parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(4)  # so that what is attended to shows
    return run


def moved(first: Tensor, second: Tensor) -> list[bool]:
    return ((first - second).abs().amax(dim=-1) > 1e-4).tolist()


@pytest.mark.parametrize(
    ("attention", "expected"),
    [("bbcc", (True, True)), ("cbcc", (False, True)), ("cccc", (False, False))],
)
def test_what_an_embedding_prompt_sees_of_its_last_token(
    tmp_path: Path, attention: Attention, expected: tuple[bool, bool]
) -> None:
    """Whether the instruction, and the text's first token, change with the text's last token."""
    run = random_run(tmp_path, attention)
    inputs = embedding_inputs(run.encoder, ["the mill by the hill"], instruction="Find it", longest=30)
    other = dataclasses.replace(inputs, ids=inputs.ids.clone())
    other.ids[0, -1] += 1
    with torch.no_grad():
        changed = moved(*(run.module._embedding_states(each)[0] for each in (inputs, other)))
    header = int((inputs.attended - inputs.sample).sum())
    assert (changed[header - 1], changed[header]) == expected
    assert changed[-1]


@pytest.mark.parametrize(("attention", "sees"), [("bbcc", False), ("bbbc", True)])
def test_what_a_conversation_sees_of_its_question(tmp_path: Path, attention: Attention, sees: bool) -> None:
    run = random_run(tmp_path, attention)
    batch = text_batch(run.encoder, [TextRow(("Where is the mill?", "By the hill."))], longest=60)
    answer = int((batch.labels[0] != -100).int().argmax())
    question, response = (
        dataclasses.replace(batch, ids=batch.ids.clone()),
        dataclasses.replace(batch, ids=batch.ids.clone()),
    )
    question.ids[0, answer - 1] += 1
    response.ids[0, -1] += 1
    with torch.no_grad():
        states = [run.module.text_states(each)[0] for each in (batch, question, response)]
    assert moved(states[0], states[1])[1] is sees  # the beginning of the prompt, from its end
    assert moved(states[0], states[2])[:-1] == [False] * (batch.ids.shape[1] - 1)  # never from an answer's future


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_is_that_of_inference(tmp_path: Path, pooling: str) -> None:
    run = random_run(tmp_path, pooling=pooling)
    inputs = embedding_inputs(run.encoder, ["the mill", "by the hill of it"], instruction="Find", longest=30)
    with torch.no_grad():
        hidden = run.module._embedding_states(inputs)
        assert torch.equal(run.module.vectors(inputs), pool(hidden, inputs.attended, inputs.sample, pooling))  # type: ignore[arg-type]


def test_an_ablation_trains_and_its_export_says_what_it_is(tmp_path: Path) -> None:
    config = tiny_recipe(tmp_path, bag_steps=0, steps=6)
    model = dataclasses.replace(config.model, start="random", attention="cbbc", pooling="weightedmean", projection=24)
    result = train(dataclasses.replace(config, model=model), progress=False)
    about = json.loads((result.model / "grit_config.json").read_text())
    assert (about["pooling"], about["attention"]) == ("weightedmean", "cbbc")


def projected(output: Path, **changes: object) -> TrainConfig:
    config = tiny_recipe(output, bag_steps=0, **changes)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, start="random", projection=24))


def test_a_model_trained_causally_is_used_causally(tmp_path: Path) -> None:
    run = random_run(tmp_path, "cccc")
    run._export({name: tensor.clone() for name, tensor in run._tensors().items()}, tmp_path / "model")
    grit = GritLM.from_pretrained(tmp_path / "model", dtype="float32")
    texts = ["the mill by the hill", "a bakery of Arnwick"]
    with torch.no_grad():
        vectors = run.module.vectors(embedding_inputs(run.encoder, texts, instruction="", longest=40))
    ours = torch.nn.functional.normalize(vectors, dim=-1).numpy()
    assert np.allclose(grit.embed_documents(texts), ours, atol=2e-2)  # the export is bfloat16
    asked: dict[str, Any] = {"messages": "Which?", "documents": texts, "caching": "doc"}
    trained = prompt_of(run.encoder.prompts, grit.window, **asked).plan
    assert trained == grit.prompt(**asked).plan
    assert [block.pattern for block in trained.blocks] == ["alone", "alone"]


def test_a_projection_is_exported_as_the_embedding_head(tmp_path: Path) -> None:
    config = projected(tmp_path / "first", steps=5)
    result = train(config, progress=False)
    grit = GritLM.from_pretrained(
        result.model, embedding_head=result.model / "embedding_head.safetensors", dtype="float32"
    )
    assert grit.dim == 24
    model = dataclasses.replace(config.model, checkpoint=str(result.model))
    again = Run(dataclasses.replace(projected(tmp_path / "second"), model=model))
    texts = ["the mill by the hill", "a bakery of Arnwick"]
    with torch.no_grad():
        vectors = again.module.vectors(embedding_inputs(again.encoder, texts, instruction="", longest=40))
    ours = torch.nn.functional.normalize(vectors, dim=-1).numpy()
    assert np.allclose(grit.embed_documents(texts), ours, atol=1e-4)
