"""Reranking with the model that retrieves and answers: the fourth role of one set of weights."""

from __future__ import annotations

from grit_integrations.reranking.options import Ranked, Reranking, RerankingOptions

__all__ = ["Ranked", "Reranking", "RerankingOptions"]
