"""GradCache: the contrastive batch may be larger than what fits into memory at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from recipes import tiny_recipe
from torch import Tensor

from grit_integrations.training.objectives.contrastive import in_chunks
from grit_integrations.training.rows.batches import embedding_inputs
from grit_integrations.training.trainer import Run


def gradients(run: Run) -> tuple[float, dict[str, Tensor]]:
    """The loss and the gradients of a run's first contrastive batch."""
    (objective,) = run.objectives
    loss = objective.loss(run.module, objective.next_batch())
    loss.value.backward()
    return loss.value.item(), {name: p.grad for name, p in run.module.named_parameters() if p.grad is not None}


def contrastive(output: Path, *, chunk: int | None, **model: object) -> Run:
    config = tiny_recipe(output, bag_steps=0, generative_weight=0.0, embedding_chunk=chunk)
    settings = dataclasses.replace(config.model, start="random", **model)
    return Run(dataclasses.replace(config, model=settings))


@pytest.mark.parametrize("chunk", [1, 3, 1000])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_chunked_gradients_equal_unchunked_ones(tmp_path: Path, chunk: int, checkpointed: bool) -> None:
    whole, plain = gradients(contrastive(tmp_path / "whole", chunk=None, projection=24))
    run = contrastive(tmp_path / "parts", chunk=chunk, projection=24)
    if checkpointed:
        run.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    parts, chunked = gradients(run)
    assert parts == pytest.approx(whole, abs=1e-5)
    assert plain.keys() == chunked.keys()
    assert max(float(each.abs().max()) for each in plain.values()) > 0.01
    for name, each in plain.items():
        assert torch.allclose(each, chunked[name], atol=1e-5), name


def test_the_batch_has_hard_negatives(tmp_path: Path) -> None:
    objective = contrastive(tmp_path, chunk=None).objectives[0]
    assert any(sum(objective.next_batch().negatives) > 0 for _ in range(6))


def test_dropout_draws_the_same_numbers_again(tmp_path: Path) -> None:
    """The second pass over a chunk must drop what the first dropped, or the gradient is another function's."""
    run = contrastive(tmp_path, chunk=2)
    run.model.config.attention_dropout = 0.5
    for layer in run.model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    inputs = embedding_inputs(run.encoder, [f"by the hill {n}" for n in range(6)], instruction="", longest=24)

    def gradient(vectors: Callable[[], Tensor]) -> Tensor:
        torch.manual_seed(3)
        run.module.zero_grad()
        vectors().pow(2).sum().backward()
        return run.model.model.embed_tokens.weight.grad.clone()

    chunked = gradient(lambda: in_chunks(run.module.vectors, inputs, 2))
    assert torch.allclose(chunked, gradient(lambda: torch.cat([run.module.vectors(p) for p in inputs.split(2)])))
    assert not torch.allclose(chunked, gradient(lambda: run.module.vectors(inputs)), atol=1e-3)  # it does drop


def test_memory_follows_the_chunk_and_not_the_batch(tmp_path: Path) -> None:
    """The widest pass with a graph has `chunk` rows, however many the batch has."""
    run = contrastive(tmp_path, chunk=3)
    widths: list[int] = []
    run.model.model.layers[0].register_forward_pre_hook(lambda layer, inputs: widths.append(inputs[0].shape[0]))
    gradients(run)
    assert max(widths) == 3
    assert len(widths) > 4
