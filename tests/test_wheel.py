"""What a wheel of this package holds: the package, the bundled model, the demo's texts, licences, and nothing else."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import pytest
from hatchling.builders.wheel import WheelBuilder

import grit_integrations

ROOT = Path(grit_integrations.__file__).parents[1]
CORPUS = ROOT / "examples" / "corpus"
SUFFIXES = {".py", ".typed", ".md", ".json", ".safetensors"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZipFile]:
    """The wheel that `pip wheel .` makes."""
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("dist")), versions=["standard"])
    with ZipFile(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def metadata(wheel: ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(wheel.read(name))


def files_in(folder: Path) -> set[str]:
    """Return the files below a folder, relative to it; without what Python compiles and what is hidden."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if not any(part.startswith((".", "__pycache__")) for part in path.parts)}


def test_the_package_is_whole_and_nothing_else_is_there(wheel: ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    package = {f"grit_integrations/{file}" for file in files_in(ROOT / "grit_integrations")}
    corpus = {f"grit_integrations/corpus/{file}" for file in files_in(CORPUS)}
    assert names == package | corpus
    assert {PurePosixPath(name).suffix for name in names} <= SUFFIXES
    assert not {name for name in names if "test_" in name or PurePosixPath(name).name == "build.py"}


def test_the_model_and_the_demos_texts_are_in_it(wheel: ZipFile) -> None:
    names = set(wheel.namelist())
    assert "grit_integrations/py.typed" in names
    for file in ("model.safetensors", "tokenizer.json", "config.json", "grit_config.json", "README.md"):
        assert f"grit_integrations/bundled/grit-mini/{file}" in names
    assert "grit_integrations/corpus/questions.json" in names
    texts = [name for name in names if name.startswith("grit_integrations/corpus/")]
    assert {PurePosixPath(name).suffix for name in texts} == {".md", ".json"}  # texts and questions, no programs


def test_licences_come_with_what_they_are_of(wheel: ZipFile, metadata: Message) -> None:
    licences = {name.split(".dist-info/licenses/")[1] for name in wheel.namelist() if ".dist-info/licenses/" in name}
    assert licences == {"LICENSE", "grit_integrations/bundled/grit-mini/README.md", "examples/corpus/ATTRIBUTION.md"}
    assert set(metadata.get_all("License-File") or ()) == licences
    assert metadata["License-Expression"] == "Apache-2.0 AND CC-BY-SA-4.0 AND CC-BY-4.0 AND MIT"


def test_metadata_says_where_it_runs_and_where_it_lives(wheel: ZipFile, metadata: Message) -> None:
    assert metadata["Version"] == grit_integrations.__version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Author"] == "The grit_integrations authors"
    pythons = [line.rsplit(" ", 1)[1] for line in metadata.get_all("Classifier") or () if " :: 3." in line]
    assert pythons == ["3.11", "3.12", "3.13", "3.14"]
    urls = dict(line.split(", ") for line in metadata.get_all("Project-URL") or ())
    assert set(urls) == {"Homepage", "Repository", "Documentation", "Changelog", "Issues"}
    assert all(url.startswith("https://github.com/grit-integrations/grit_integrations") for url in urls.values())
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    assert "grit = grit_integrations.cli:app" in wheel.read(name).decode()


def test_tools_check_for_the_oldest_python() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    oldest = settings["project"]["requires-python"].removeprefix(">=")
    assert settings["tool"]["mypy"]["python_version"] == oldest
    assert settings["tool"]["ruff"]["target-version"] == "py" + oldest.replace(".", "")
