"""The RAG stream: rows as inference lays them out, pointers as the model computes them, a loss that falls."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from recipes import RECIPE, tiny_recipe

from grit_integrations import ConfigError, DataError
from grit_integrations.evaluation.labelled_texts import IGNORED, PromptEncoder
from grit_integrations.evaluation.phrases import NO_ANSWER
from grit_integrations.options import CACHINGS, Caching
from grit_integrations.training import TrainConfig, train
from grit_integrations.training.config import ModelConfig, RagConfig, config_from_table
from grit_integrations.training.objectives.pointers import pointer_loss, pointer_scores
from grit_integrations.training.rows.question_rows import Asked
from grit_integrations.training.rows.rag_rows import Example, RagRow, rag_batch, rag_rows
from grit_integrations.training.start.from_nothing.workspace import fold_workspace
from grit_integrations.training.trainer import Run

READER = ModelConfig(
    vocab_size=420,
    hidden_size=416,
    heads=8,
    kv_heads=4,
    mlp_size=64,
    context=256,
    rope_theta=1e6,
    start="reader",
    workspace=351,
)
TOWNS = ("Arnwick", "Belford", "Corham", "Denby", "Elsdon", "Falstone", "Greta", "Hexley")
OTHERS = ["The bridge is made of stone.", "The school has a garden.", "The road leads to the sea."]
EVERY_MODE: dict[Caching, float] = dict.fromkeys(CACHINGS, 1.0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The tiny example's rows, and questions on sentences about mills."""
    folder = tmp_path / "data"
    shutil.copytree(RECIPE.parent / "tiny", folder)
    (folder / "rag").mkdir()
    rng = random.Random(0)
    rows = []
    for _ in range(60):
        town, year = rng.choice(TOWNS), str(rng.randint(1700, 1999))
        context = f"The hills are green. The mill of {town} was built in {year}. It stands by the river."
        asked = [{"question": f"When was the mill of {town} built?", "answer": year}]
        asked.append({"question": "What stands by it?", "answer": rng.choice(["river", ""])})
        rows.append({"context": context, "questions": asked, "others": OTHERS})
    (folder / "rag" / "mills.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def recipe(output: Path, data: Path, **changes: Any) -> TrainConfig:
    base = tiny_recipe(output)
    settings = {"rag": RagConfig(tokens=400, caching=EVERY_MODE, several=0.3), "model": READER, **changes}
    return dataclasses.replace(base, data=dataclasses.replace(base.data, data=str(data)), **settings)


def one(encoder: PromptEncoder, asked: str, documents: tuple[str, ...], answer: str, caching: Caching) -> RagRow:
    (row,) = rag_rows(encoder, Example(documents, 0, (Asked(asked, answer),), caching), quoted=True)
    return row


def test_a_row_has_the_labels_the_pointers_and_what_quoting_allows(tmp_path: Path, data: Path) -> None:
    encoder = Run(recipe(tmp_path / "run", data)).encoder
    document = "The mill was built in 1850, not in 1840. In 1850 it burned."
    for caching in CACHINGS:
        row = one(encoder, "When was it built?", (document, "Other words."), "1850", caching)
        batch = rag_batch([row, row], pad=encoder.pad, vocabulary=len(encoder.tokenizer))
        ids = row.answers[0].ids
        assert encoder.prompts.decode(ids) == "1850"
        assert ids[-1] == encoder.prompts.eos_id
        counted = batch.labels[0] != IGNORED
        assert tuple(batch.labels[0][counted].tolist()) == ids
        ask = row.answers[0].ask
        assert batch.asks[0].nonzero().flatten().tolist() == [ask]
        assert counted.nonzero()[0].item() == ask
        assert batch.prompts.ids[0, ask + 1].item() == ids[0]
        pointed = batch.prompts.ids[0][batch.starts[0]].tolist()
        assert pointed == [ids[0]] * 2  # both places in the gold document
        assert batch.allowed is not None
        allowed = batch.allowed[: len(ids)]
        assert bool(allowed[range(len(ids)), ids].all())
        assert 2 < int(allowed[0].sum()) < 40  # words of the documents, not the vocabulary
        assert encoder.prompts.eos_id not in allowed[0].nonzero().flatten().tolist()


def test_an_answer_inside_a_word_costs_nothing(tmp_path: Path, data: Path) -> None:
    encoder = Run(recipe(tmp_path / "run", data)).encoder
    (answer,) = one(encoder, "What?", ("Windmills turn.",), "mill", "off").answers
    assert answer.allowed == tuple((token,) for token in answer.ids)
    assert answer.starts == ()


@pytest.mark.parametrize("caching", CACHINGS)
@pytest.mark.parametrize("count", [1, 2])
def test_questions_on_the_same_documents_are_read_as_if_alone(
    tmp_path: Path, data: Path, caching: Caching, count: int
) -> None:
    run = Run(recipe(tmp_path / "run", data))
    documents = ("The mill was built in 1850.", "It burned in 1860.")[:count]
    asked = (
        Asked("When was it built?", "1850"),
        Asked("When was it sold?", ""),
        Asked("When? Say it.", "1850", "It was 1850."),
    )
    together = rag_rows(run.encoder, Example(documents, 0, asked, caching), quoted=True)
    alone = [
        row for each in asked for row in rag_rows(run.encoder, Example(documents, 0, (each,), caching), quoted=True)
    ]
    assert (len(together) == 1) == (not caching.startswith("query"))  # there the question stands in front
    assert sum(len(row.prompt.ids) for row in together) <= sum(len(row.prompt.ids) for row in alone)

    def predicted(rows: list[RagRow]) -> tuple[torch.Tensor, list[int]]:
        batch = rag_batch(rows, pad=run.encoder.pad, vocabulary=len(run.encoder.tokenizer))
        counted = batch.labels != IGNORED
        assert int(batch.asks.sum()) == len(batch.starts) == 3
        with torch.no_grad():
            hidden, _ = run.module.prompt_states(batch.prompts)
        return hidden[counted], batch.labels[counted].tolist()

    (states, labels), (wanted, expected) = predicted(together), predicted(alone)
    assert labels == expected
    assert torch.allclose(states, wanted, atol=1e-5)
    assert [answer.allowed for row in together for answer in row.answers] == [row.answers[0].allowed for row in alone]


def test_rows_say_what_a_recipe_asks_for(tmp_path: Path, data: Path) -> None:
    def said(**settings: Any) -> list[str]:
        rag = RagConfig(tokens=400, caching={"off": 1.0}, quoted=0.0, pointed=0.0, **settings)
        run = Run(recipe(tmp_path / "run", data, rag=rag))
        batches = [run.objectives[-1].next_batch() for _ in range(5)]
        assert all(batch.allowed is None for batch in batches)
        labels = torch.cat([batch.labels[batch.labels != IGNORED] for batch in batches]).tolist()
        ends = [0, *(at + 1 for at, token in enumerate(labels) if token == run.encoder.prompts.eos_id)]
        return [run.encoder.prompts.decode(labels[start:end]) for start, end in pairwise(ends)]

    assert any(text.isdigit() for text in said())
    assert set(said(absent=1.0, several=1.0)) == {NO_ANSWER}
    assert any(text.startswith("The mill of") for text in said(sentences=1.0))


@pytest.mark.parametrize("caching", ["off", "doc"])
def test_pointer_scores_are_the_attention_of_the_last_layer(tmp_path: Path, data: Path, caching: Caching) -> None:
    run = Run(recipe(tmp_path / "run", data))
    run.start.wake(run.model)
    rows = [
        one(run.encoder, "When was it built?", (text,), "1850", caching)
        for text in ("Built in 1850.", "The mill was built in the year 1850, they say.")
    ]
    batch = rag_batch(rows, pad=run.encoder.pad, vocabulary=len(run.encoder.tokenizer))
    with torch.no_grad():
        _, before = run.module.prompt_states(batch.prompts)
        asks = batch.asks.nonzero(as_tuple=True)
        scores = pointer_scores(run.model, before, batch.prompts, (asks[0], asks[1]), heads=6)
        run.model.set_attn_implementation("eager")  # which gives its weights, and wants a mask to add
        mask = torch.zeros_like(batch.prompts.seen, dtype=torch.float32).masked_fill(~batch.prompts.seen, -torch.inf)
        output = run.model.model(
            input_ids=batch.prompts.ids,
            position_ids=batch.prompts.positions,
            attention_mask=mask,
            output_attentions=True,
            use_cache=False,
        )
    attention = output.attentions[-1][range(2), :6, asks[1]]  # (rows, heads, tokens)
    assert torch.allclose(scores.softmax(dim=-1), attention, atol=1e-5)


def test_pointer_loss_is_zero_on_the_target_and_skips_rows_without_one() -> None:
    scores = torch.full((2, 3, 5), -torch.inf)
    scores[0, :, 1] = 0.0
    scores[1, :, 2] = 0.0
    targets = torch.zeros(2, 5, dtype=torch.bool)
    assert pointer_loss(scores, targets).item() == 0.0
    targets[0, 1] = True
    assert pointer_loss(scores, targets).item() == 0.0
    even = torch.zeros(1, 1, 4)
    assert pointer_loss(even, torch.tensor([[True, True, False, False]])).item() == pytest.approx(0.6931, abs=1e-4)


def test_a_reader_begins_with_the_vectors_of_the_bag(tmp_path: Path, data: Path) -> None:
    run = Run(recipe(tmp_path / "run", data))
    batch = run.objectives[0].next_batch().passages
    with torch.no_grad():
        before = torch.nn.functional.normalize(run.module.vectors(batch), dim=-1)
        run.start.wake(run.model)
        after = torch.nn.functional.normalize(run.module.vectors(batch), dim=-1)
    # 64 of 416 coordinates are words here; in grit-mini, where 544 of 896 are, it is above 0.99
    assert float((before * after).sum(dim=-1).min()) > 0.8


def test_a_reader_looks_at_neighbours_and_at_the_question(tmp_path: Path, data: Path) -> None:
    run = Run(recipe(tmp_path / "run", data))
    run.start.wake(run.model)
    run.model.set_attn_implementation("eager")
    ids = torch.randint(6, 300, (1, 120), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, second, _ = run.model.model(input_ids=ids, output_attentions=True, use_cache=False).attentions
    distance = 119 - torch.arange(120)
    assert float(first[0, 0, -1][distance < 12].sum()) > 0.8
    assert float(second[0, 0, -1][(distance > 12) & (distance < 36)].sum()) > 0.5


def test_training_lowers_every_part_and_leaves_words_to_the_embedding_stream(tmp_path: Path, data: Path) -> None:
    config = recipe(tmp_path / "run", data, steps=40, embedding_every=4, generative_every=2)
    result = train(config, progress=False)
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if "rag" in record]
    assert len(steps) == 30  # behind the bag's ten
    assert ["embedding" in record for record in steps[:5]] == [True, False, False, False, True]
    for part in ("rag.free", "rag.quoted", "rag.pointed"):
        early, late = (sum(record[part] for record in half) for half in (steps[:8], steps[-8:]))
        assert late < early, part
    assert result.model.is_dir()
    run = Run(recipe(tmp_path / "other", data, embedding_weight=0.0, bag_steps=0))
    words = 416 - 1 - 351
    kept = run.model.model.embed_tokens.weight.detach()[:, :words].clone()
    for _ in range(3):
        run.step()
    assert torch.equal(run.model.model.embed_tokens.weight[:, :words], kept)
    assert not torch.equal(run.model.model.layers[0].self_attn.o_proj.weight, torch.zeros(416, 512))


def test_a_resumed_run_draws_the_same_rows(tmp_path: Path, data: Path) -> None:
    run = Run(recipe(tmp_path / "run", data))
    objective = run.objectives[-1]
    objective.next_batch()
    position = objective.position
    batch = objective.next_batch()
    objective.seek(position)
    again = objective.next_batch()
    assert torch.equal(batch.prompts.ids, again.prompts.ids)
    assert torch.equal(batch.prompts.seen, again.prompts.seen)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"rag": {"caching": {"document": 1.0}}}, "rag.caching has 'document'"),
        ({"rag": {"context_lengths": [0, 1]}}, "Give each length its share"),
        ({"rag": {"context_lengths": [0], "context_shares": [0.0]}}, "one of them above 0"),
        ({"rag": {"tokens": 0}}, "rag.tokens is 0. It must be above 0"),
        ({"rag": {"questions": 0}}, "rag.questions is 0. It must be above 0"),
        ({"rag": {"absent": 1.5}}, "rag.absent is 1.5. It must be in 0..1"),
        ({"model": {"start": "reader", "layers": 2}}, "model.layers is 2. With start = 'reader' it must be 3"),
    ],
)
def test_impossible_settings_are_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_table({"output": "out", "data": {"data": "data"}, **table})


def test_a_wrong_row_is_named(tmp_path: Path, data: Path) -> None:
    with (data / "rag" / "mills.jsonl").open("a") as file:
        file.write(json.dumps({"context": "Nothing.", "questions": [{"question": "?", "answer": "something"}]}) + "\n")
    with pytest.raises(DataError, match=r"mills.jsonl line 61: \"answer\" does not stand in"):
        Run(recipe(tmp_path / "run", data))


def test_pointers_that_weigh_nothing_are_not_measured(tmp_path: Path, data: Path) -> None:
    whole = Run(recipe(tmp_path / "whole", data)).objectives[-1]
    settings = RagConfig(tokens=400, caching=EVERY_MODE, several=0.3, pointed=0.0)
    run = Run(recipe(tmp_path / "without", data, rag=settings))
    loss = run.objectives[-1].loss(run.module, run.objectives[-1].next_batch())
    expected = whole.loss(run.module, whole.next_batch())
    assert "pointed" not in loss.figures
    assert {**expected.figures, **loss.figures} == expected.figures
    assert loss.value.item() == pytest.approx(expected.value.item() - expected.figures["pointed"], abs=1e-5)


def test_an_exported_model_has_the_logits_of_the_trained_one(tmp_path: Path, data: Path) -> None:
    run = Run(recipe(tmp_path / "run", data, bag_steps=0))
    run.step()
    ids = torch.randint(6, 300, (2, 20), generator=torch.Generator().manual_seed(0))
    inputs = run.objectives[0].next_batch().passages
    with torch.no_grad():
        before = run.model(input_ids=ids).logits
        run.model.load_state_dict(fold_workspace(run.model.state_dict(), 351))
        assert torch.equal(run.model(input_ids=ids).logits, before)
        vectors = run.module.vectors(inputs)
    inside = vectors[:, 64:-1].norm() / vectors.norm()
    assert float(inside) < 0.2
