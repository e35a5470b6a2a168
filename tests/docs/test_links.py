"""Links lead somewhere: to a file, to a heading in it, and from the package index to the same files on the web."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import README, ROOT, pages

HOME = "https://github.com/grit-integrations/grit_integrations/blob/main/"
RAW = "https://raw.githubusercontent.com/grit-integrations/grit_integrations/main/"
PICTURES = (".png", ".svg", ".jpg")
WRITTEN = [*pages(), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "examples" / "corpus" / "ATTRIBUTION.md"]
ANYWHERE = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)$", flags=re.MULTILINE)


def prose(page: Path) -> str:
    """Return a page without its code."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "`", text)


def targets(page: Path) -> list[str]:
    return [inline or defined for inline, defined in ANYWHERE.findall(prose(page))]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in targets(page):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_references_are_defined_and_used(page: Path) -> None:
    text = prose(page)
    defined = set(re.findall(r"^\[([^\]]+)\]: ", text, flags=re.MULTILINE))
    assert set(re.findall(r"\]\[([^\]]+)\]", text)) == defined


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_addresses_of_this_repository_are_files_of_it(page: Path) -> None:
    for target in targets(page):
        if "grit-integrations/grit_integrations" in target:
            base = RAW if target.endswith(PICTURES) else HOME
            assert target.startswith(base), target
            assert (ROOT / target.removeprefix(base)).exists(), target


def test_the_readme_works_on_the_package_index() -> None:
    """There, a relative link leads nowhere."""
    assert not [target for target in targets(README) if not target.startswith("https://")]
    assert sum(target.startswith((HOME, RAW)) for target in targets(README)) > 15


ORDER = """
quickstart models langchain llama-index chroma cli caching quoting reranking training evaluation benchmarks
reliability architecture contributing changelog
"""


def test_the_readme_orders_the_pages_for_a_newcomer() -> None:
    listed = README.read_text(encoding="utf-8").split("## Learn more")[1].split("\n\n")[1]
    found = re.findall(r"\]\[([\w-]+)\]", listed)
    assert found == ORDER.split()
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= set(found)
