"""The command `grit`: help that teaches, nothing heavy loaded for it, and what goes wrong in one line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import write_checkpoint
from command_line import good, grit, refusal

from grit_integrations import CollectionMismatchError, GritLM
from grit_integrations.ingest import PassageIndex

COMMANDS = ("demo", "index", "ask", "chat", "train", "evaluate", "info")
GROUPS = ("cache",)
HEAVY = ("torch", "transformers", "chromadb", "langchain_core", "llama_index", "numpy")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_example(command: str) -> None:
    text = good(command, "--help")
    assert "Examples" in text
    assert text.count(f"grit {command} ") + text.count(f"grit {command}\n") >= 2
    if command != "train":
        assert "--model" in text or re.search(r"\bMODEL\b", text)  # `evaluate` takes it as an argument
        assert "GRIT_MODEL" in text
    assert "--device" in text


def test_help_lists_the_commands() -> None:
    text = good("--help")
    assert all(re.search(rf"│ {command}\s", text) for command in COMMANDS + GROUPS)
    assert "grit demo" in text


def test_help_names_the_options() -> None:
    index = good("index", "--help")
    assert all(option in index for option in ("--caching", "--precision", "--cache-size"))
    for command in ("ask", "chat"):
        assert "query-doc or" in " ".join(good(command, "--help").replace("│", " ").split())


@pytest.mark.parametrize(
    "statement",
    [
        "import grit_integrations.cli",
        "from grit_integrations.cli import app; app(['index', '--help'], standalone_mode=False)",
        "from grit_integrations.cli import app; app(['ask', '--help'], standalone_mode=False)",
    ],
)
def test_help_loads_nothing_heavy(statement: str) -> None:
    check = f"import sys; {statement}; print([name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.splitlines()[-1] == "[]"


def test_what_goes_wrong_is_one_line(store: Path, docs: Path, tmp_path: Path, tiny_path: Path) -> None:
    assert "missing does not exist" in refusal("index", docs, tmp_path / "missing", "--store", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert "no store at" in refusal("ask", "What?", "--store", tmp_path / "new", "--model", tiny_path)
    assert "no store at" in refusal("index", "--forget", docs, "--store", tmp_path / "new", "--model", tiny_path)
    assert "Query 0 is empty" in refusal("ask", " ", "--store", store)
    assert "not empty and holds no store" in refusal("index", docs, "--store", docs, "--model", tiny_path)
    assert "no directory and no hub id" in refusal("info", "--model", "./nothing", "--store", tmp_path / "new")
    assert "Passages of 5 tokens" in refusal(
        "index", docs, "--store", tmp_path / "new", "--model", tiny_path, "--passage-tokens", 5
    )
    assert "cuda:9" in refusal("info", "--store", store, "--device", "cuda:9")
    assert "recipe" in refusal("train", tmp_path / "nothing.toml")
    assert grit("ask", "What?", "--store", store, "-k", 0).exit_code == 2  # usage


def test_an_empty_store_says_so(tmp_path: Path, tiny: GritLM) -> None:
    PassageIndex(tmp_path / "store", tiny, create=True)
    assert "is empty. Fill it with: grit index" in refusal("ask", "What?", "--store", tmp_path / "store")


def test_another_model_is_refused_with_both_fingerprints(
    store: Path, docs: Path, tiny: GritLM, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = write_checkpoint(tmp_path_factory.mktemp("other") / "other", seed=1)
    for command in (["ask", "What?"], ["chat"], ["index", docs]):
        said = refusal(*command, "--store", store, "--model", other)
        assert tiny.fingerprint in said
        assert GritLM(other).fingerprint in said
    result = grit("ask", "What?", "--store", store, "--model", other, "--debug")
    assert "Traceback" in result.stderr
    assert f"{CollectionMismatchError.__name__}: " in result.stderr
