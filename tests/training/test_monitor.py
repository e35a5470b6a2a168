"""What a run watches: the trained toy retrieves, and its loss tells text from noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from recipes import Trained, tiny_recipe

from grit_integrations import GritLM
from grit_integrations.evaluation.labelled_texts import PromptEncoder
from grit_integrations.evaluation.nats import response_nats
from grit_integrations.evaluation.ranks import rank_scores
from grit_integrations.evaluation.retrieval_sets import load_retrieval
from grit_integrations.evaluation.row_kinds import TextRow
from grit_integrations.training.monitor import Monitor
from grit_integrations.training.trainer import Run


def test_the_trained_toy_retrieves_and_expects_its_answers(trained: Trained) -> None:
    folder = Path(trained.config.data.data) / "evaluation"
    watched = load_retrieval(folder / "retrieval" / "questions.jsonl")
    grit = GritLM(trained.result.model, device="cpu")
    queries = grit.embed_queries(list(watched.queries), instruction=watched.instruction)
    similarity = queries @ grit.embed_documents(list(watched.passages)).T
    assert rank_scores(similarity, watched.gold).recall_1 > 5 / len(watched.passages)
    encoder = PromptEncoder(grit.checkpoint.tokenizer.hf)
    plain, odd = (
        response_nats(grit.lm, encoder, [TextRow((text,))]) for text in ("The windmill of Arnwick", "zq#xj@kv%wp")
    )
    assert plain < odd


def test_the_loss_is_that_of_the_chosen_responses(trained: Trained, tmp_path: Path) -> None:
    generation = tmp_path / "data" / "evaluation" / "generation"
    generation.mkdir(parents=True)
    for name, text in (("answers", "The windmill of Arnwick"), ("noise", "zq#xj@kv%wp")):
        (generation / f"{name}.jsonl").write_text(f'{{"text": "{text}"}}\n' * 6, encoding="utf-8")
    run = Run(tiny_recipe(tmp_path / "run"))
    data = replace(run.config.data, data=str(tmp_path / "data"))

    def nats(*sets: str, rows: int) -> float:
        config = replace(run.config, data=data, evaluate_responses=sets, evaluate_rows=rows)
        measured: float = Monitor(config, run.encoder).measure(run.module)["nats"]
        return measured

    answers, noise = nats("answers", rows=2), nats("noise", rows=2)
    assert answers != noise
    assert min(answers, noise) < nats(rows=2) < max(answers, noise)
    assert nats("answers", rows=6) == pytest.approx(answers)
