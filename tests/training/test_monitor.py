"""What a run watches: the trained toy retrieves, and its loss tells text from noise."""

from __future__ import annotations

from pathlib import Path

from recipes import Trained

from grit_integrations import GritLM
from grit_integrations.evaluation.labelled_texts import PromptEncoder
from grit_integrations.evaluation.nats import response_nats
from grit_integrations.evaluation.ranks import rank_scores
from grit_integrations.evaluation.retrieval_sets import load_retrieval
from grit_integrations.evaluation.row_kinds import TextRow


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
