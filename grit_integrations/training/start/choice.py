"""Which start a recipe asks for: weights as they come, or the tricks of grit-mini."""

from __future__ import annotations

from grit_integrations.evaluation.labelled_texts import PromptEncoder
from grit_integrations.training.config import TrainConfig
from grit_integrations.training.rows.stream_files import StreamFiles
from grit_integrations.training.start.start import Start


def make_start(config: TrainConfig, encoder: PromptEncoder, files: StreamFiles) -> Start:
    """Return the start that a recipe asks for; the tricks are loaded only for those that want them."""
    new = config.model.is_new
    if config.model.workspace or (new and config.model.start != "random"):
        from grit_integrations.training.start.from_nothing.tricks import StartFromNothing

        return StartFromNothing(config, encoder, files)
    return Start(config, encoder)
