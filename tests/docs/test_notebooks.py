"""The notebooks run from top to bottom on the bundled model, and the kept outputs come from such a run."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
MINUTES = "minutes = 1.5 "  # of training in a recipe; `make notebooks` keeps to them, the test has less time
LENGTH = 1500  # characters that the test leaves of each file of the corpus; `make notebooks` reads all


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file of the corpus, of which only the beginning is kept: reading all takes minutes."""
    folder, corpus = tmp_path_factory.mktemp("examples"), EXAMPLES / "corpus"
    for file in [*corpus.rglob("*.md"), corpus / "questions.json"]:
        copy = folder / file.relative_to(EXAMPLES)
        copy.parent.mkdir(parents=True, exist_ok=True)
        text = file.read_text(encoding="utf-8")
        copy.write_text(text if file.suffix == ".json" else text[:LENGTH], encoding="utf-8")
    return folder


@pytest.mark.enable_socket  # the kernel speaks to its client over loopback
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRIT_MODEL", raising=False)
    notebook = nbformat.read(path, as_version=4)
    trains = [cell for cell in notebook.cells if MINUTES in cell.source]
    assert len(trains) == ("train" in path.stem)
    for cell in trains:
        cell.source = cell.source.replace(MINUTES, "minutes = 0.1 ")
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": examples}})
    client.execute()
    assert shared_weights(notebook)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_with_its_outputs_and_without_paths_of_a_machine(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert shared_weights(notebook)
    assert str(Path(sys.prefix).parent) not in path.read_text(encoding="utf-8")
    assert "Error" not in {output.output_type.title() for cell in code for output in cell.outputs}


def shared_weights(notebook: nbformat.NotebookNode) -> bool:
    """Whether the last cell printed that both adapters hold the same model."""
    printed = [output.text for output in notebook.cells[-1].outputs if output.output_type == "stream"]
    return printed[:1] == ["True\n"]
