"""Reranking with the model that retrieves and answers: the fourth role of one set of weights."""

from __future__ import annotations

from grit_integrations.options import Reranking, RerankingOptions
from grit_integrations.results import Ranked

__all__ = ["Ranked", "Reranking", "RerankingOptions"]
