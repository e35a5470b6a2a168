"""What may differ between handles on one set of weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

from grit_integrations.doc_blocks import PLAIN, DocBlocks
from grit_integrations.errors import OptionError
from grit_integrations.kv.policy import CachePolicy
from grit_integrations.kv.store.store import KVCacheStore
from grit_integrations.option_values import is_count
from grit_integrations.options import check_caching
from grit_integrations.pooling import check_pooling

if TYPE_CHECKING:
    from grit_integrations.options import Caching


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """What may differ between handles on one set of weights.

    Raises:
        OptionError: a value that is not possible.
    """

    pooling: str | None = None
    normalize: bool = True
    truncate_dim: int | None = None
    caching: Caching = "prefix"
    kv_store: KVCacheStore | None = None
    cache_policy: CachePolicy = field(default_factory=CachePolicy)
    doc_blocks: DocBlocks = PLAIN

    def __post_init__(self) -> None:
        check_caching(self.caching)
        if self.pooling is not None:
            check_pooling(self.pooling)
        if self.truncate_dim is not None and not is_count(self.truncate_dim, 1):
            raise OptionError(
                f"truncate_dim={self.truncate_dim!r} is not possible. Give a whole number from 1 up, or None."
            )
        if not isinstance(self.normalize, bool):
            raise OptionError(f"normalize={self.normalize!r} is not possible. Give True or False.")
        if self.kv_store is not None and not isinstance(self.kv_store, KVCacheStore):
            raise OptionError(f"kv_store={self.kv_store!r} is not possible. Give a KVCacheStore, or None.")
        if not isinstance(self.cache_policy, CachePolicy):
            raise OptionError(f"cache_policy={self.cache_policy!r} is not possible. Give a CachePolicy.")
        if not isinstance(self.doc_blocks, DocBlocks):
            raise OptionError(f"doc_blocks={self.doc_blocks!r} is not possible. Give a DocBlocks.")

    @property
    def embedding_keeps(self) -> bool:
        """Whether embedding documents leaves the blocks that answers from them start from."""
        return self.doc_blocks.embeds(self.caching)


class ModelSettingsOptions(TypedDict, total=False):
    """The keyword arguments of `with_options`, all of them optional; `GritLM` explains them."""

    pooling: str | None
    normalize: bool
    truncate_dim: int | None
    caching: Caching
    kv_store: KVCacheStore | None
    cache_policy: CachePolicy
    doc_blocks: DocBlocks
