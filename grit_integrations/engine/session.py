"""A model as one call works with it: its files, its settings and, once something is to be computed, its engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from grit_integrations.engine.block_cache import BlockCache
from grit_integrations.errors import OptionError
from grit_integrations.pooling import pooled_token

if TYPE_CHECKING:
    from grit_integrations.engine.engine import Engine
    from grit_integrations.engine.model_settings import ModelSettings
    from grit_integrations.loading.checkpoint import Checkpoint
    from grit_integrations.loading.weights import LoadOptions
    from grit_integrations.prompts.tokenizer import PromptTokenizer


@dataclass(frozen=True)
class Session:
    """What reranking, quoting and embedding receive of a model. Looking at it loads no weights, `engine` does.

    Attributes:
        settings: pooling, caching, store, ...
        load_options: how the weights are put into memory.
        find: gives the checkpoint's files.
        load: gives the engine.
    """

    settings: ModelSettings
    load_options: LoadOptions
    find: Callable[[], Checkpoint]
    load: Callable[[], Engine]

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The files; opening them reads no weights."""
        return self.find()

    @property
    def pooling(self) -> str:
        """How token states become one vector: as asked, else as the checkpoint says, else their mean.

        Raises:
            OptionError: the state at a token, of a model that does not say so.
        """
        own = self.checkpoint.grit_config.pooling
        asked = self.settings.pooling or own
        if pooled_token(asked) and asked != own:
            raise OptionError(
                f"pooling={asked!r} is not possible: {self.checkpoint.name} was not trained to put a text's vector "
                f"there. Leave pooling out (it is {own!r} then), or name the token in its grit_config.json."
            )
        return asked

    @property
    def tokenizer(self) -> PromptTokenizer:
        """The model's tokenizer."""
        return self.checkpoint.tokenizer

    @property
    def window(self) -> int:
        """The most tokens of a prompt and its answer."""
        return self.checkpoint.window

    @property
    def dim(self) -> int:
        """Length of an embedding; loads the weights if there is a projection head."""
        head = self.load_options.embedding_head
        full = int(self.checkpoint.config["hidden_size"]) if head is None else self.engine.weights.dim
        return min(full, self.settings.truncate_dim or full)

    @cached_property
    def engine(self) -> Engine:
        """The loaded model; loads it the first time."""
        return self.load()

    @cached_property
    def cache(self) -> BlockCache:
        """Where the model's blocks are looked up and kept."""
        settings = self.settings
        store = settings.kv_store if settings.kv_store is not None else self.engine.memory
        return BlockCache(self.engine, store, settings.cache_policy)
