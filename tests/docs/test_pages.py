"""Every page: its Python runs and prints what it says, its commands and files exist, its links lead somewhere."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
from keywords import unresolved
from pages import ROOT, Block, blocks, matches, pages

PAGES = pages()
WITH_PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("page", WITH_PYTHON, ids=name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page: Path) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language == "python" and "no-run" not in block.flags:
            printed = run(block, names)
            if block.output is not None:
                assert matches(block.output, printed), f"{block} prints:\n{printed}"


def run(block: Block, names: dict[str, Any]) -> str:
    """Run a block, so that a traceback has the page's own lines, and return what it prints."""
    printed = io.StringIO()
    code = "\n" * (block.line - 1) + block.text
    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(block.page), "exec"), names)
    return printed.getvalue()


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name)
def test_what_cannot_run_here_names_only_what_exists(page: Path) -> None:
    """Code that needs a GPU or the hub."""
    for block in blocks(page):
        if block.language == "python" and "no-run" in block.flags:
            compile(block.text, str(block), "exec")
            assert not unresolved(block.text), block


def test_the_check_of_code_that_does_not_run_finds_what_does_not_exist() -> None:
    code = "from grit_integrations import GritLM, Nothing\ngrit = GritLM.from_pretrained('x', devise='cuda')\n"
    code += "grit.generate('?', decodding=None)\ngrit.embed('?')\nprint(other)\n"
    assert unresolved(code) == [
        "grit_integrations has no Nothing",
        "GritLM.from_pretrained takes no devise",
        "grit.generate takes no decodding",
        "grit has no embed",
        "other is not defined",
    ]
    assert not unresolved(
        "from grit_integrations import GritLM\nGritLM('x', device='cuda').generate('?', caching='off')"
    )
