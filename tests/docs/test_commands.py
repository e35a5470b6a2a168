"""Commands that a page shows: options are those of `--help`, modules and scripts exist, and outputs are real."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import grit
from pages import DOCS, ROOT, Block, blocks, matches, pages, table
from typer.main import get_command

from grit_integrations.cli import app

SHELLS = ("sh", "bash", "console")
CLI = DOCS / "cli.md"


def shown_commands() -> Iterator[tuple[str, str]]:
    """Yield every command line of every page's shell blocks, and of its lines of indented code, with its place."""
    for page in [*pages(), ROOT / "CONTRIBUTING.md"]:
        for block in blocks(page):
            if block.language in SHELLS:
                yield from ((str(block), line) for line in lines_of(block))
        for line in re.findall(r"^    (grit|python|make) (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
            yield page.name, " ".join(line)


def lines_of(block: Block) -> list[str]:
    """Return the commands of a block; in a `console` block they follow a `$`, and the rest is what they print."""
    if block.language == "console":
        return re.findall(r"^\$ (.*)$", block.text, flags=re.MULTILINE)
    return [line for line in block.text.splitlines() if line.strip() and not line.startswith("#")]


def words(line: str) -> list[str]:
    """Return the words of the part of a line that runs this project: what stands behind `grit`, `python` or `make`."""
    line = line.rpartition("| ")[2].replace("$(which grit)", "grit").partition(" > ")[0]
    parts = shlex.split(line, comments=True)
    starts = [index for index, word in enumerate(parts) if word in ("grit", "python", "make")]
    return parts[starts[0] :] if starts else []


@pytest.mark.parametrize(("place", "line"), list(shown_commands()))
def test_a_command_exists_with_its_options(place: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *arguments = words(line) or [""]
    if program == "grit":
        known = options_of(arguments, monkeypatch)
        assert {word for word in arguments if re.fullmatch(r"--?[a-z][\w-]*", word)} <= known
    elif program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    elif arguments[:1] == ["-m"]:
        assert importlib.util.find_spec(arguments[1])
    elif program == "python":
        assert (ROOT / arguments[0]).is_file()


def options_of(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the options that the help page of the command names with which `arguments` begin."""
    monkeypatch.setenv("COLUMNS", "200")
    command: Any = get_command(app)
    names: list[str] = []
    for word in arguments:
        if word not in getattr(command, "commands", {}):
            break
        names.append(word)
        command = command.commands[word]
    help_page = grit(*names, "--help")
    assert help_page.exit_code == 0, help_page.output
    return set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", help_page.output))


def test_the_page_of_the_command_line_names_every_option_and_no_other() -> None:
    rows = table(CLI.read_text(encoding="utf-8"), "command")
    named = {(command, option) for row in rows for command in commands_of(row[0]) for option in code(row[1])}
    real = {(path, option) for path, command in walk(get_command(app)) for option in flags(command)}
    assert {(command, option.split()[0]) for command, option in named} == real


def test_the_defaults_on_the_page_are_the_real_ones() -> None:
    commands = dict(walk(get_command(app)))
    for names, options, default, _ in table(CLI.read_text(encoding="utf-8"), "command"):
        shown = re.fullmatch(r"`([^`]+)`(?: at first)?", default)
        if shown is None:
            continue
        for name in commands_of(names):
            option = next(each for each in commands[name].params if code(options)[0].split()[0] in each.opts)
            if option.envvar == "GRIT_STORE" or name != "demo":
                said = option.default if option.default is not None else option.show_default
                assert str(said).rpartition("else ")[2] == shown[1], (name, options)


def commands_of(cell: str) -> list[str]:
    """Return the commands that a cell of the table means."""
    every = [path for path, _ in walk(get_command(app))]
    if not cell.startswith("all"):
        return code(cell)
    return [path for path in every if path not in code(cell)]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def walk(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, f"{path} {name}".strip())
    if not hasattr(command, "commands"):
        yield path, command


def flags(command: Any) -> list[str]:
    options = [each for each in command.params if each.param_type_name == "option"]
    return [flag for option in options for flag in (*option.opts, *option.secondary_opts)]


def test_the_walk_through_prints_what_the_page_shows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    walked = [block for block in blocks(CLI) if "run" in block.flags]
    assert len(walked) == 3
    for block in walked:
        for line, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block.text, flags=re.MULTILINE):
            printed = run(line)
            assert matches(shown, printed), f"{block}: {line} prints:\n{printed}"


def run(line: str) -> str:
    program, *arguments = shlex.split(line)
    if program != "grit":
        subprocess.run(line, shell=True, check=True)
        return ""
    result = grit(*arguments)
    assert result.exit_code == 0, result.output
    return result.output.rstrip("\n") + "\n"
