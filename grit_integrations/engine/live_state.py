"""Whether loaded weights are still those that were loaded: what is stored under their name must be theirs."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_PROCESS = uuid.uuid4().hex  # an edit is known in the process that made it, and nowhere else


class LiveState:
    """Watches a loaded model for edits: parameters written to or replaced, adapters added, switched or disabled.

    What is written through `parameter.data` in place leaves no trace in torch and is not seen.

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

    def _state(self) -> int:
        adapted = bool(getattr(self._lm, "peft_config", None))
        parameters = self._lm.parameters() if adapted else self._parameters
        written = tuple((tensor.data_ptr(), _version(tensor)) for tensor in parameters)
        return hash((written, self._adapters() if adapted else None))

    def _adapters(self) -> tuple[object, ...]:
        layers = [module for module in self._lm.modules() if hasattr(module, "active_adapter")]  # peft's tuner layers
        return tuple((str(layer.active_adapter), bool(layer.disable_adapters)) for layer in layers)


def _version(tensor: Tensor) -> int:
    """Return how often a tensor was written to; one that was loaded in inference mode does not count it."""
    return 0 if tensor.is_inference() else tensor._version
