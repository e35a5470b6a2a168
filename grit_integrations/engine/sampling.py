"""How one token is chosen: transformers' own logits processors, and a row's own source of randomness."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

if TYPE_CHECKING:
    from grit_integrations.options import Decoding


def logits_processors(decoding: Decoding) -> LogitsProcessorList:
    """Return transformers' own processors in the order in which `generate` applies them."""
    processors = LogitsProcessorList()
    if decoding.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(decoding.repetition_penalty))
    if decoding.temperature == 0:
        return processors
    if decoding.temperature != 1.0:
        processors.append(TemperatureLogitsWarper(decoding.temperature))
    if decoding.top_k:
        processors.append(TopKLogitsWarper(decoding.top_k))
    if decoding.top_p < 1.0:
        processors.append(TopPLogitsWarper(decoding.top_p))
    return processors


def random_generator(decoding: Decoding, device: torch.device) -> torch.Generator | None:
    """Return the row's own source of randomness, or `None` for greedy decoding."""
    if decoding.temperature == 0:
        return None
    generator = torch.Generator(device=device)
    if decoding.seed is None:
        generator.seed()
    else:
        generator.manual_seed(decoding.seed)
    return generator
