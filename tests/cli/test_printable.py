"""Nothing that comes from files, models or arguments reaches the terminal as a control sequence."""

from __future__ import annotations

import errno
import io
import logging
import os
import pty
import subprocess
import sys
import unicodedata
import warnings
from pathlib import Path

import pytest
import typer
from checkpoints import write_checkpoint
from command_line import RUN, good, grit
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

from grit_integrations import IngestError
from grit_integrations.cli.command_group import GritGroup
from grit_integrations.cli.console import PlainConsole, shown_path
from grit_integrations.cli.printable import printable
from grit_integrations.cli.wrapped_text import WrappedStream, print_wrapped

EVIL = "\x1b]52;c;cHduZWQ=\x07\x1b[2J\x9b31m\x1b]0;owned\x07\u202e"


def assert_plain(output: str) -> None:
    assert not [
        character for character in output if unicodedata.category(character) in ("Cc", "Cs") and character != "\n"
    ]
    assert "\u202e" not in output


@given(st.text())
def test_any_text_becomes_plain_and_stays_as_it_is_otherwise(text: str) -> None:
    shown = printable(text)
    assert printable(shown) == shown
    assert_plain(shown.replace("\t", ""))
    if text.isprintable():
        assert shown == text
    assert "\n" not in printable(text, lines=False)


@given(st.text(st.characters(codec=None)))
def test_any_way_of_printing_is_plain(text: str) -> None:
    out = PlainConsole(file=io.StringIO(), width=40)
    table = Table()
    table.add_column(Text(text))
    table.add_row(Text(text))
    out.print(text, Text(text, style="bold"), table, markup=False)
    print_wrapped(out, Text(text), 2)
    stream = WrappedStream(out)
    stream.add(text)
    stream.end()
    assert_plain(out.file.getvalue())


def test_richs_own_sequences_reach_a_terminal() -> None:
    out = PlainConsole(file=io.StringIO(), force_terminal=True, color_system="standard", width=40)
    out.print(Text(EVIL, style="bold"))
    shown = out.file.getvalue()
    assert shown.startswith("\x1b[1m")
    assert_plain(shown.replace("\x1b[1m", "").replace("\x1b[0m", ""))


def test_names_of_emoji_and_line_breaks_stay_in_their_line(tmp_path: Path) -> None:
    path = tmp_path / "a\nError: fake\r\t.txt"
    assert shown_path(path).endswith("a\\nError: fake\\r\\t.txt")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / ":bomb:[red].txt").write_bytes(b"\x00\x01")
    assert ":bomb:[red].txt" in good("index", tmp_path / "docs", "--store", tmp_path / "s")


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which names and texts are hostile, and an index of it."""
    folder = tmp_path / f"evil{EVIL}"
    (folder / "docs").mkdir(parents=True)
    text = f"# Liver {EVIL}\n\nThe liver {EVIL} cleans the blood of the animal. It is a large organ."
    (folder / "docs" / f"liver{EVIL}.md").write_text(text)
    (folder / "docs" / f"broken{EVIL}.pdf").write_text("no pdf")
    (folder / "docs" / os.fsdecode(b"r\xe9sum\xe9.txt")).write_text("text")
    monkeypatch.chdir(folder)
    return folder


def test_every_command_is_plain(evil: Path, mini: object) -> None:
    indexed = good("index", "docs", "--caching", "doc")
    assert "2 not readable" in indexed
    said = [
        indexed,
        good("ask", f"What cleans the blood? {EVIL}"),
        good("ask", "What cleans the blood?", "--free", "--max-tokens", "8"),
        good("chat", given=f"What cleans the blood? {EVIL}\n"),
        good("info"),
        good("info", "--store", evil / ".grit"),
        good("cache", "stats"),
        good("cache", "stats", "--json"),
        good("cache", "verify"),
        good("index", "--forget", "docs"),
    ]
    refused = [
        grit("index", f"missing{EVIL}"),
        grit("ask", "What?", "--store", f"missing{EVIL}"),
        grit("info", "--model", f"missing{EVIL}"),
        grit("cache", "stats", "--store", f"missing{EVIL}"),
        grit("demo", "--corpus", f"missing{EVIL}"),
        grit("train", f"missing{EVIL}.toml"),
        grit("evaluate", "grit-mini", "--data", f"missing{EVIL}"),
        grit("index", "docs", "--caching", EVIL),
        grit("index", "docs", f"--{EVIL}"),
        grit("ask", "What?", "-k", EVIL),
        grit(EVIL),
        grit(f"--{EVIL}"),
        grit("index", f"missing{EVIL}", "--debug"),
    ]
    assert all(result.exit_code for result in refused)
    for output in (*said, *(result.output for result in refused)):
        assert_plain(output)
    assert "\\x1b]0;owned\\x07" in indexed + refused[0].output


def test_the_name_of_a_model_is_plain(evil: Path) -> None:
    model = write_checkpoint(evil / f"model{EVIL}")
    assert_plain(good("index", "docs", "--model", model) + good("info") + good("ask", "What?", "--max-tokens", "4"))


@pytest.mark.parametrize("expected", [True, False])
def test_errors_tracebacks_logs_and_warnings_are_plain(expected: bool) -> None:
    app = typer.Typer(cls=GritGroup, pretty_exceptions_enable=False)

    @app.callback()
    def group() -> None:
        pass

    @app.command()
    def fail() -> None:
        logging.getLogger("library").warning("logged %s", EVIL)
        warnings.warn(f"warned {EVIL}", stacklevel=1)
        raise IngestError(EVIL) if expected else RuntimeError(EVIL)

    logging.getLogger("library").addHandler(handler := logging.StreamHandler(io.StringIO()))
    logging.getLogger("py.warnings").addHandler(handler)
    result = CliRunner().invoke(app, ["fail"])
    assert result.exit_code == 1
    assert ("Traceback" in result.stderr) != expected
    assert_plain(result.output)
    assert "warned" in handler.stream.getvalue()
    assert_plain(handler.stream.getvalue())


def test_the_progress_bar_on_a_terminal(evil: Path, tiny_path: Path) -> None:
    for number in range(5):
        (evil / "docs" / f"{number}{EVIL}.txt").write_text("The liver cleans the blood. " * 50)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", RUN, "index", "docs", "--model", str(tiny_path)]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env={**environment, "TERM": "xterm"}) as process:
        os.close(theirs)
        output = b"".join(iter(lambda: _read(ours), b""))
    os.close(ours)
    assert process.returncode == 0, output
    assert b"Indexing" in output
    for sequence in (b"\x1b]", b"\x07", b"\x1b[2J", "\x9b".encode(), "\u202e".encode()):
        assert sequence not in output


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError as error:  # how Linux says that the other side is closed
        if error.errno != errno.EIO:
            raise
        return b""
