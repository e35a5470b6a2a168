"""The framework's embeddings cache made safe for a model whose queries and documents have different vectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Self

from llama_index.core.storage.kvstore.types import DEFAULT_COLLECTION, BaseKVStore

from grit_integrations.errors import OptionError

COLLECTION = "embeddings"
Vector = list[float]


class VectorCache(BaseKVStore):
    """Stands between the framework and the user's key-value store.

    llama-index-core looks vectors up by the raw text alone, so a query would get the vector of an equal document, and
    one model the vector of another. Its look-ups carry no word about who asks. So to the framework this store is
    always empty and forgets what it is given; `GritEmbedding`, which knows, uses `look_up` and `keep` with keys that
    name model, role and options.
    """

    def __init__(self, store: BaseKVStore) -> None:
        self.store = store

    @classmethod
    def around(cls, store: Any) -> Self | None:
        """Return `store` behind this class; one that is already is returned as it is."""
        if store is None or isinstance(store, cls):
            return store
        if not isinstance(store, BaseKVStore):
            raise OptionError(
                f"embeddings_cache={store!r} is not possible. Give a BaseKVStore, such as SimpleKVStore()."
            )
        return cls(store)

    def look_up(self, keys: Sequence[str]) -> list[Vector | None]:
        """Return the stored vector of each key, or None."""
        return [_vector(self.store.get(key, collection=COLLECTION)) for key in keys]

    async def alook_up(self, keys: Sequence[str]) -> list[Vector | None]:
        """Return the stored vector of each key, or None; the store's own async methods are used."""
        return [_vector(await self.store.aget(key, collection=COLLECTION)) for key in keys]

    def keep(self, keys: Sequence[str], vectors: Sequence[Vector]) -> None:
        """Store each key's vector."""
        for key, vector in zip(keys, vectors, strict=True):
            self.store.put(key, {"embedding": vector}, collection=COLLECTION)

    async def akeep(self, keys: Sequence[str], vectors: Sequence[Vector]) -> None:
        """Store each key's vector; the store's own async methods are used."""
        for key, vector in zip(keys, vectors, strict=True):
            await self.store.aput(key, {"embedding": vector}, collection=COLLECTION)

    # What the framework sees

    def put(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        """Forget it: the key does not say whether it is a query."""

    async def aput(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        """Forget it: the key does not say whether it is a query."""

    def get(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        """Know nothing: the key does not say whether it is a query."""
        return None

    async def aget(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        """Know nothing: the key does not say whether it is a query."""
        return None

    def get_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        """Return what the user's store holds."""
        return self.store.get_all(collection=collection)

    async def aget_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        """Return what the user's store holds."""
        return await self.store.aget_all(collection=collection)

    def delete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """Delete from the user's store."""
        return self.store.delete(key, collection=collection)

    async def adelete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """Delete from the user's store."""
        return await self.store.adelete(key, collection=collection)


def cache_key(identity: dict[str, object], text: object) -> str:
    """Return a short key of `text` under everything else that decides its vector.

    JSON escapes whatever is not ASCII, so text that cannot be encoded gets as far as the model's own check.
    """
    content = json.dumps([identity, text], sort_keys=True, default=repr)
    return f"grit-{hashlib.blake2b(content.encode(), digest_size=20).hexdigest()}"


def _vector(value: dict[str, Any] | None) -> Vector | None:
    return None if value is None else value["embedding"]
