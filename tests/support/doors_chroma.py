"""The ways of a text through Chroma's embedding function, and through an index of files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import chromadb
from doors import Door, Pair

from grit_integrations import GritLM
from grit_integrations.chroma import GritEmbeddingFunction, check_collection, open_collection, stamp
from grit_integrations.ingest.passage_index import PassageIndex


def _function(grit: GritLM, pair: Pair) -> GritEmbeddingFunction:
    return GritEmbeddingFunction(grit, query_instruction=pair[1], document_instruction=pair[1])


def _collected(grit: GritLM, pair: Pair) -> Any:
    client = chromadb.EphemeralClient()
    options = {"query_instruction": pair[1], "document_instruction": pair[1]}
    collection = open_collection(client, "doors", grit, **options)
    try:
        collection.add(ids=["0"], documents=[pair[0]])
        collection.upsert(ids=["0"], documents=[pair[1]])
        collection.update(ids=["0"], documents=[pair[0]])
        collection.query(query_texts=[pair[0]], n_results=1)
        check_collection(collection, grit, document_instruction=pair[1])
    finally:
        client.delete_collection("doors")


def _searched(grit: GritLM, pair: Pair) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "page.txt").write_text(pair[0])
        index = PassageIndex(Path(folder) / "index", grit, create=True)
        index.index([Path(folder) / "page.txt"])
        index.search(pair[1], 1)


CHROMA: dict[str, Door] = {
    "GritEmbeddingFunction.__call__": lambda grit, pair: list(_function(grit, pair)([pair[0]])),
    "GritEmbeddingFunction.embed_query": lambda grit, pair: list(_function(grit, pair).embed_query([pair[0]])),
    "PartedCollection.add": _collected,
    "PartedCollection.upsert": _collected,
    "PartedCollection.update": _collected,
    "VectorOrigin.of": _collected,
    "open_collection": _collected,
    "check_collection": _collected,
    "stamp": lambda grit, pair: stamp(grit, document_instruction=pair[0]),
}
FILES: dict[str, Door] = {"PassageIndex.search": _searched}
