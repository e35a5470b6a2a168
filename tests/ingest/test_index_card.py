"""What is no index, or says nothing of itself that can be read, is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from grit_integrations import GritLM, IngestError
from grit_integrations.ingest import PassageIndex


def test_what_is_no_store(tmp_path: Path, tiny: GritLM) -> None:
    with pytest.raises(IngestError, match="no store at"):
        PassageIndex(tmp_path / "nothing", tiny)
    assert not (tmp_path / "nothing").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("mine")
    with pytest.raises(IngestError, match="not empty and holds no store"):
        PassageIndex(tmp_path / "full", tiny, create=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(IngestError, match="is a file"):
        PassageIndex(tmp_path / "file", tiny, create=True)


@pytest.mark.parametrize("card", ["{", "[]", '{"format": 99}', '{"format": 1, "origin": {}, "passage_tokens": 99}'])
def test_damaged_cards(tmp_path: Path, tiny: GritLM, card: str) -> None:
    (tmp_path / "store.json").write_text(card)
    with pytest.raises(IngestError, match=r"again|another directory"):
        PassageIndex(tmp_path, tiny, create=True)
