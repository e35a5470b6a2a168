"""The bag start: silent layers, IDF weights, and vectors that already retrieve."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from recipes import tiny_recipe

from grit_integrations.engine.encoder import bidirectional_view
from grit_integrations.evaluation.labelled_texts import PromptEncoder
from grit_integrations.training.objectives.bag import bag_vectors
from grit_integrations.training.rows.batches import embedding_inputs
from grit_integrations.training.rows.stream_files import open_data
from grit_integrations.training.start.from_nothing.bag_of_words import IDF_DOCUMENTS, token_codes, token_weights
from grit_integrations.training.trainer import Run


def start(tmp_path: Path) -> Run:
    return Run(tiny_recipe(tmp_path))


def test_the_start_is_a_weighted_bag_of_tokens(tmp_path: Path) -> None:
    run = start(tmp_path)
    text = "The windmill of Arnwick stands by the hill"
    batch = embedding_inputs(run.encoder, [text], instruction="", longest=64)
    vector = run.module.vectors(batch)[0]
    rows = run.encoder.texts([text])[0]
    weights = token_weights(
        run.encoder.texts(open_data(run.config).documents(IDF_DOCUMENTS)),
        token_codes(run.encoder.tokenizer),
    )
    table = run.model.model.embed_tokens.weight.detach()
    scale = table.shape[1] ** 0.5 / weights.max()
    norms = torch.tensor([table[token, :-1].norm() for token in rows])
    assert torch.allclose(norms, weights[rows] * scale, atol=0.02)
    assert torch.allclose(table.norm(dim=1), torch.full((len(table),), table.shape[1] ** 0.5), atol=1e-3)
    assert torch.allclose(vector[:-1], table[rows, :-1].mean(dim=0), atol=1e-4)
    assert vector[-1].item() == 0.0


def test_the_bag_phase_computes_what_the_whole_model_computes(tmp_path: Path) -> None:
    run = start(tmp_path)
    batch = embedding_inputs(
        run.encoder, ["a short one", "one that is rather longer, by the hill"], instruction="", longest=64
    )
    whole = run.module.vectors(batch)
    short = bag_vectors(run.model, batch)
    assert torch.allclose(whole, short, atol=1e-5)


def test_tokens_that_differ_in_case_or_space_share_a_direction(tmp_path: Path) -> None:
    run = start(tmp_path)
    tokenizer = run.encoder.tokenizer
    codes = token_codes(tokenizer)
    small, capital, spaced, other = tokenizer.convert_tokens_to_ids(["w", "W", "Ġw", "k"])
    assert codes[small] == codes[capital] == codes[spaced] != codes[other]
    rows = run.model.model.embed_tokens.weight.detach()[[small, capital, spaced, other]]
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[0], rows[2])
    assert torch.cosine_similarity(rows[0, :-1], rows[3, :-1], dim=0) < 0.9


def test_weights_fall_with_document_frequency() -> None:
    weights = token_weights([[0, 1, 2], [0, 1], [0, 3], [0, 0]], codes=[0, 1, 2, 2])
    assert weights[0] == 0.0
    assert weights[0] < weights[1]
    assert weights[2] == weights[3] == weights[1]  # two documents each: tokens 2 and 3 share a code


def test_the_start_sees_both_directions(tmp_path: Path) -> None:
    run = start(tmp_path)
    torch.manual_seed(0)
    for layer in run.model.model.layers:
        layer.self_attn.o_proj.weight.data.normal_(0, 0.2)
    encoder: PromptEncoder = run.encoder
    one = embedding_inputs(encoder, ["by the hill it stands"], instruction="", longest=64)
    two = embedding_inputs(encoder, ["by the hill it rests"], instruction="", longest=64)
    view = bidirectional_view(run.model.model)
    first, second = (view(input_ids=each.ids).last_hidden_state[0, 3] for each in (one, two))
    causal = [run.model.model(input_ids=each.ids).last_hidden_state[0, 3] for each in (one, two)]
    assert not torch.allclose(first, second, atol=1e-3)
    assert torch.allclose(causal[0], causal[1], atol=1e-5)


def test_layers_keep_to_their_workspace(tmp_path: Path) -> None:
    config = tiny_recipe(tmp_path, bag_steps=2)
    run = Run(dataclasses.replace(config, model=dataclasses.replace(config.model, workspace=16)))
    norm = run.model.model.norm.weight.detach().clone()
    words, workspace = slice(0, 47), slice(47, 63)
    for _ in range(6):
        run.step()
    table, layer = run.model.model.embed_tokens.weight.detach(), run.model.model.layers[0]
    assert torch.equal(table[:, workspace], torch.zeros_like(table[:, workspace]))
    for written in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
        assert written[words].abs().max() == 0
        assert written[63].abs().max() == 0
        assert written[workspace].abs().max() > 0
    assert torch.equal(run.model.model.norm.weight, norm)
    assert norm[workspace].max() < 0.1


def test_the_workspace_reaches_the_logits_and_hardly_the_vector(tmp_path: Path) -> None:
    config = tiny_recipe(tmp_path, bag_steps=0)
    run = Run(dataclasses.replace(config, model=dataclasses.replace(config.model, workspace=16)))
    batch = embedding_inputs(run.encoder, ["by the hill it stands"], instruction="", longest=64)

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            return run.module.vectors(batch)[0], run.model(input_ids=batch.ids).logits[0, -1]

    vector, logits = both()
    for layer in run.model.model.layers:
        layer.mlp.down_proj.weight.data[47:63] = torch.randn(16, 128, generator=torch.Generator().manual_seed(0))
    moved_vector, moved_logits = both()
    assert torch.cosine_similarity(vector, moved_vector, dim=0) > 0.95
    assert torch.cosine_similarity(logits, moved_logits, dim=0) < 0.8
