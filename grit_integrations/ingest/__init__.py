"""Files on disk to a searchable index: read, split, and kept in step with the files. What `grit index` runs on."""

from __future__ import annotations

from grit_integrations.ingest.file_reader import read_file
from grit_integrations.ingest.found_files import FoundFiles, find_files
from grit_integrations.ingest.indexing_run import IndexProgress, IndexReport
from grit_integrations.ingest.passage_index import Hit, PassageIndex
from grit_integrations.ingest.record_manager import SqliteRecordManager
from grit_integrations.ingest.splitter import PassageSplitter

__all__ = [
    "FoundFiles",
    "Hit",
    "IndexProgress",
    "IndexReport",
    "PassageIndex",
    "PassageSplitter",
    "SqliteRecordManager",
    "find_files",
    "read_file",
]
