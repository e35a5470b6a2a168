"""What an index remembers about its KV cache."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import refusal

from grit_integrations import GritLM
from grit_integrations.cli.cache_settings import CacheSettings, mark_unfilled, read_settings, write_settings
from grit_integrations.ingest import PassageIndex


def test_a_card_that_was_edited_is_refused(tmp_path: Path, tiny: GritLM) -> None:
    PassageIndex(tmp_path / "s", tiny, create=True)
    card = json.loads((tmp_path / "s" / "store.json").read_text())
    for entry in (["doc"], {"caching": "fast"}, {"size": "much"}, {"other": 1}):
        (tmp_path / "s" / "store.json").write_text(json.dumps({**card, "kv_cache": entry}))
        assert "does not say how the KV cache is kept" in refusal("cache", "stats", "--store", tmp_path / "s")


def test_settings_survive(tmp_path: Path, tiny: GritLM) -> None:
    PassageIndex(tmp_path / "s", tiny, create=True)
    assert read_settings(tmp_path / "s") == read_settings(tmp_path / "none") == CacheSettings()
    settings = CacheSettings("doc", "int8", 5, filled=True)
    write_settings(tmp_path / "s", settings)
    assert read_settings(tmp_path / "s") == settings
    assert settings.changed(None, "int8", None) == settings
    assert settings.changed(None, None, "6") == CacheSettings("doc", "int8", 6)
    mark_unfilled(tmp_path / "s")
    assert not read_settings(tmp_path / "s").filled
    assert PassageIndex(tmp_path / "s", tiny).splitter.tokens == 192  # the card's other entries are there
