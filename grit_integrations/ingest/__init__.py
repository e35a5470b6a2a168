"""Files on disk to a searchable store: read, split, and keep it in step with the files. What `grit index` runs on."""

from __future__ import annotations

from grit_integrations.ingest.files import find_files, read_file
from grit_integrations.ingest.records import SqliteRecordManager
from grit_integrations.ingest.splitting import PassageSplitter
from grit_integrations.ingest.store import Hit, IndexReport, Progress, Store

__all__ = [
    "Hit",
    "IndexReport",
    "PassageSplitter",
    "Progress",
    "SqliteRecordManager",
    "Store",
    "find_files",
    "read_file",
]
