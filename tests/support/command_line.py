"""Runs `grit` in this process: what it says, and what it refuses."""

from __future__ import annotations

from click.testing import Result
from typer.testing import CliRunner

from grit_integrations.cli import app

RUN = "from grit_integrations.cli import app; app()"  # the command, for `python -c`


def grit(*arguments: object, given: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=given)


def good(*arguments: object, given: str | None = None) -> str:
    result = grit(*arguments, given=given)
    assert result.exit_code == 0, result.output
    return result.output


def refusal(*arguments: object) -> str:
    """Run a command that must fail with one line."""
    result = grit(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout.strip() == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("Error: ")
    return result.stderr
