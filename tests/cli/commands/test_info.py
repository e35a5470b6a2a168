"""`grit info`: the model, and the index if there is one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_line import good

from grit_integrations import GritLM


def test_info(store: Path, tiny: GritLM) -> None:
    text = good("info", "--store", store)
    assert tiny.fingerprint in text
    assert re.search(r"Device +cpu", text)
    assert re.search(r"Precision +float32", text)
    assert re.search(r"Memory +[\d.]+ MiB of weights, [\d.]+ [MG]iB peak of the process", text)
    assert "2 passages" in text


def test_info_without_a_store(tiny_path: Path, tmp_path: Path) -> None:
    assert "Store" not in good("info", "--store", tmp_path / "none", "--model", tiny_path)


def test_environment_names_the_model(tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIT_MODEL", str(tiny_path))
    assert "MistralForCausalLM" in good("info", "--store", tmp_path / "none")
