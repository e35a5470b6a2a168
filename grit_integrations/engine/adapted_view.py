"""A view of a decoder in which an adapter is active; the decoder, whose every parameter it shares, stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from grit_integrations.errors import ModelLoadError

Factors = Mapping[str, tuple[Tensor, Tensor]]


class LowRankLinear(nn.Module):
    """A linear layer with a low-rank product beside it.

    Args:
        base: the layer.
        low: (rank, in).
        high: (out, rank), scaled.
    """

    def __init__(self, base: nn.Module, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.base = base
        self.low, self.high = low, high

    def forward(self, states: Tensor) -> Tensor:
        """Return what both give together, (..., out)."""
        own: Tensor = self.base(states)
        return own + nn.functional.linear(nn.functional.linear(states, self.low), self.high)


def adapted_view(lm: nn.Module, decoder: nn.Module, factors: Factors) -> nn.Module:
    """Return a view of `decoder`, the inner model of `lm`, in which the layers that `factors` names are adapted.

    Modules on the way to these layers are copied; parameters and all other modules are shared.

    Args:
        lm: the causal LM, by whose names the layers go.
        decoder: what is viewed.
        factors: of each layer; none gives the decoder itself.

    Raises:
        ModelLoadError: a placement over devices that puts hooks where the copies would be.
    """
    if not factors:
        return decoder
    name = next(name for name, module in lm.named_modules() if module is decoder)
    return _copied(decoder, f"{name}.", factors)


def _copied(module: nn.Module, path: str, factors: Factors) -> nn.Module:
    if "forward" in vars(module):  # bound to the original, which a copy would run
        raise ModelLoadError(
            "device_map puts hooks into this model's layers, with which an adapter cannot be active for embedding "
            "alone. Load it on one device."
        )
    view = copy.copy(module)
    view._modules = {name: _child(child, path + name, factors) for name, child in module._modules.items()}
    return view


def _child(child: nn.Module | None, path: str, factors: Factors) -> nn.Module | None:
    if child is None or not any(layer == path or layer.startswith(f"{path}.") for layer in factors):
        return child
    if path in factors:
        return LowRankLinear(child, *factors[path])
    return _copied(child, f"{path}.", factors)
