"""What an index holds, file by file."""

from __future__ import annotations

from pathlib import Path

from grit_integrations.ingest import PassageIndex


def contents(index: PassageIndex) -> dict[str, set[str]]:
    """Return what the vector store holds: texts by file name; checked against the records."""
    got = index.vectors.get()
    assert sorted(got["ids"]) == sorted(index.records.list_keys())
    found: dict[str, set[str]] = {}
    for text, metadata in zip(got["documents"], got["metadatas"], strict=True):
        found.setdefault(Path(metadata["source"]).name, set()).add(text)
    return found
