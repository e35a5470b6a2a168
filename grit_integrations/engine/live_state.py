"""Whether loaded weights are still those that were loaded: what is stored under their name must be theirs."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PROCESS = uuid.uuid4().hex  # an edit is known in the process that made it, and nowhere else


class LiveState:
    """Watches a loaded model for edits: parameters written to, adapters added, switched or disabled.

    Args:
        lm: as it was loaded.
    """

    def __init__(self, lm: PreTrainedModel) -> None:
        self._lm: Any = lm
        self._parameters = list(lm.parameters())
        self._loaded = self._state()

    @property
    def edits(self) -> str:
        """A name for what was changed since the model was loaded; empty if nothing was."""
        state = self._state()
        return "" if state == self._loaded else f"{_PROCESS} {state}"

    def _state(self) -> tuple[object, ...]:
        versions = sum(parameter._version for parameter in self._parameters)
        return versions, self._adapters() if getattr(self._lm, "peft_config", None) else None

    def _adapters(self) -> tuple[object, ...]:
        parameters = dict(self._lm.named_parameters())
        written = tuple((name, id(value), value._version) for name, value in parameters.items() if "lora" in name)
        layers = [module for module in self._lm.modules() if hasattr(module, "active_adapter")]  # peft's tuner layers
        switched = tuple(
            (str(layer.active_adapter), bool(layer.disable_adapters)) for layer in layers[:1] + layers[-1:]
        )
        return written, switched, tuple(sorted(self._lm.peft_config))
