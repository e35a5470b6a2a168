"""`grit evaluate`: tables on the way, JSON that is whole whenever it stops, and errors in one line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import Result
from question_sets import write_rows
from typer.testing import CliRunner

from grit_integrations.cli import app
from grit_integrations.evaluation.scope import PARTS

# A process that a shell started in the background ignores SIGINT unless it says otherwise.
RUN = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
RUN += "from grit_integrations.cli import app; app()"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRIT_MODEL", "GRIT_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")


def grit(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def refusal(*arguments: object) -> str:
    result = grit(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout.strip() == ""
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.strip().splitlines()) == 1
    return result.stderr


def test_help_teaches_by_example() -> None:
    text = grit("--help").output
    assert text.count("grit evaluate ") >= 3
    assert all(name in text for name in ("--data", "--caching", "--quick", "GRIT_MODEL", "--json"))


def test_help_loads_nothing_heavy() -> None:
    check = "import sys; from grit_integrations.cli import app; app(['evaluate', '--help'], standalone_mode=False); "
    check += "print([m for m in ('torch', 'transformers', 'numpy', 'rank_bm25', 'accelerate') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.splitlines()[-1] == "[]"


def test_everything_is_measured_printed_and_written(folder: Path, tmp_path: Path) -> None:
    files = tmp_path / "figures.json", tmp_path / "records.jsonl"
    result = grit("grit-mini", "--data", folder, "--quick", "--json", files[0], "--records", files[1])
    assert result.exit_code == 0, result.output
    assert "| squad-tiny (5) | 7 | BM25 | 1.000" in result.stdout
    assert "| gold | prefix | tokens | 5 |" in result.stdout
    assert "| unanswerable (2) | refused, % |" in result.stdout
    assert "**Held-out text**" in result.stdout
    assert "**Embedding: similar above dissimilar**" in result.stdout
    found = json.loads(files[0].read_text())
    assert found["complete"] is True
    assert set(PARTS) <= set(found)
    assert found["settings"]["questions"] == 30
    assert found["settings"]["bm25"] == {"k1": 1.2, "b": 0.75}
    assert found["model"]["model"] == "grit-mini"
    assert str(tmp_path) not in files[0].read_text()
    arms = found["answers"]["squad-tiny"]["arms"]
    assert all(arm["other answers"] == 0 for arm in arms if arm["caching"] == "prefix")
    assert all(arm["blocks computed"] == 0 for arm in arms if arm["caching"] == "doc")
    records = [json.loads(line) for line in files[1].read_text().splitlines()]
    assert {record["part"] for record in records} == {"retrieval", "answers", "refusal"}


def test_the_same_seed_gives_the_same_figures(folder: Path, tmp_path: Path) -> None:
    figures = []
    for name in ("a", "b"):
        file = tmp_path / f"{name}.json"
        options = ("--parts", "retrieval,answers", "--questions", 3, "--quote", "", "--caching", "doc")
        assert grit("grit-mini", "--data", folder, *options, "--json", file).exit_code == 0
        found = json.loads(file.read_text())
        for arm in found["answers"]["squad-tiny"]["arms"]:
            del arm["seconds"]
        figures.append((found["retrieval"], found["answers"]))
    assert figures[0] == figures[1]


def test_bad_input_is_one_line_before_any_work(folder: Path, tmp_path: Path) -> None:
    assert "There is no folder" in refusal("grit-mini", "--data", tmp_path / "none")
    assert "has no set nothing. It has headings-tiny, squad-tiny" in refusal(
        "grit-mini", "--data", folder, "--sets", "nothing"
    )
    assert "'dox' is unknown. Use some of off, prefix" in refusal("grit-mini", "--data", folder, "--caching", "dox")
    assert "quotes: 'phrases' is unknown" in refusal("grit-mini", "--data", folder, "--quote", "phrases")
    assert "there is no folder" in refusal("grit-mini", "--data", folder, "--json", tmp_path / "no" / "f.json")
    assert "is a folder" in refusal("grit-mini", "--data", folder, "--records", tmp_path)
    assert "no directory and no hub id" in refusal("grit-nano", "--data", folder)
    (tmp_path / "empty").mkdir()
    assert "config.json" in refusal(tmp_path / "empty", "--data", folder)


def test_a_part_without_its_questions_names_the_cure(folder: Path) -> None:
    path = folder / "evaluation" / "generation" / "squad-tiny.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_rows(path, [row for row in rows if row["answer"]])
    message = refusal("grit-mini", "--data", folder)
    assert "refusal needs unanswerable questions" in message
    assert "--parts" in message


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_leaves_the_parts_that_were_finished(folder: Path, tmp_path: Path) -> None:
    path = folder / "evaluation" / "generation" / "squad-tiny.jsonl"
    path.write_text(path.read_text() * 400)  # minutes of work
    file = tmp_path / "figures.json"
    arguments = ["evaluate", "grit-mini", "--data", folder, "--questions", "2000", "--json", file]
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 100
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=30)
    finally:
        run.kill()
    assert run.returncode == 130
    assert "Stopped." in errors
    found = json.loads(file.read_text())
    assert found["complete"] is False
    assert "retrieval" in found
    assert "answers" not in found
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []
