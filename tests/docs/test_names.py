"""Modules, files and names that pages mention in their text exist."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest
from pages import DOCS, PACKAGE, ROOT, pages, prose

import grit_integrations

DRAWN = "architecture.md"  # whose drawing has a test of its own
OTHERS = {"GritEmbeddingFunction", "GritEncoder", "GritCrossEncoder"}  # of Chroma and of mteb, in their own modules
WRITTEN = [page for page in [*pages(), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"] if page.name != DRAWN]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_modules_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for file in re.findall(r"`([\w/.-]+\.(?:py|toml|json))`", text):
        if file not in (
            "config.json",
            "adapter_config.json",
            "kto.json",
            "questions.json",
        ):  # of models, runs, corpora
            assert places(file), file
    for name in re.findall(r"`(grit_integrations(?:\.\w+)+)`", text):
        assert resolved(name), name


def places(file: str) -> list[Path]:
    """Return the files of the package, or of the repository, that a page may mean by `file`."""
    found = [path for path in PACKAGE.rglob(Path(file).name) if f"/{path.as_posix()}".endswith(f"/{file}")]
    return found or [path for path in [ROOT / file] if path.is_file()]


def resolved(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return hasattr(importlib.import_module(module), attribute)
    return True


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_classes_that_look_like_ours_are_public(page: Path) -> None:
    """`Grit...` and `...Grit` are names that readers will import."""
    from grit_integrations import langchain, llama_index

    public = {*grit_integrations.__all__, *langchain.__all__, *llama_index.__all__, *OTHERS}
    named = set(re.findall(r"`(Grit[A-Z]\w+|ChatGrit)\b", page.read_text(encoding="utf-8")))
    assert named <= public


def test_extras_that_are_named_exist_and_the_quickstart_names_all() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = set(project["optional-dependencies"]) - {"dev"}
    for page in pages():
        installs = re.findall(r"pip install .*?\bgrit.integrations(?:\[([\w,-]+)\])?", page.read_text(encoding="utf-8"))
        assert {extra for each in installs for extra in each.split(",") if extra} <= extras
    listed = prose(DOCS / "quickstart.md").split("The extras are ")[1].split(" On Linux")[0]
    assert set(re.findall(r"`([\w-]+)`", listed)) == extras
