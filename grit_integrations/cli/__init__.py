"""The command `grit`. Importing this loads neither torch nor a framework, so that `grit --help` answers at once."""

from __future__ import annotations

from grit_integrations.cli.app import app

__all__ = ["app"]
