"""One writer at a time."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from grit_integrations import IngestError
from grit_integrations.ingest.write_lock import writing_to


def test_a_thread_may_hold_it_again_and_another_may_not(tmp_path: Path) -> None:
    refused = []

    def other() -> None:
        try:
            with writing_to(tmp_path):
                pass
        except IngestError as error:
            refused.append(str(error))

    def meanwhile() -> None:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    with writing_to(tmp_path):
        with writing_to(tmp_path):
            meanwhile()
        meanwhile()
    assert ["Another process is writing" in message for message in refused] == [True, True]
    meanwhile()
    assert len(refused) == 2


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(IngestError, match="cannot be written"), writing_to(tmp_path):
        pass
