"""What may differ between handles on one set of weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

from grit_integrations.errors import OptionError
from grit_integrations.kv.policy import CachePolicy
from grit_integrations.option_values import check, is_count
from grit_integrations.options import POOLINGS, check_caching

if TYPE_CHECKING:
    from grit_integrations.kv.store.store import KVCacheStore
    from grit_integrations.options import Caching, Pooling


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """What may differ between handles on one set of weights.

    Raises:
        OptionError: a value that is not possible.
    """

    pooling: Pooling | None = None
    normalize: bool = True
    truncate_dim: int | None = None
    caching: Caching = "prefix"
    kv_store: KVCacheStore | None = None
    cache_policy: CachePolicy = field(default_factory=CachePolicy)

    def __post_init__(self) -> None:
        check_caching(self.caching)
        if self.pooling is not None and self.pooling not in POOLINGS:
            raise OptionError(f"pooling={self.pooling!r} is unknown. Use one of {', '.join(POOLINGS)}.")
        if self.truncate_dim is not None and not is_count(self.truncate_dim, 1):
            raise OptionError(f"truncate_dim={self.truncate_dim!r} is not possible. Give 1 or more, or None.")
        check(isinstance(self.normalize, bool), "normalize", self.normalize, "True or False")


class ModelSettingsOptions(TypedDict, total=False):
    """The keyword arguments of `with_options`, all of them optional; `GritLM` explains them."""

    pooling: Pooling | None
    normalize: bool
    truncate_dim: int | None
    caching: Caching
    kv_store: KVCacheStore | None
    cache_policy: CachePolicy
