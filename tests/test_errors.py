"""Errors travel: between processes by pickle, and into tracers and retries as copies."""

from __future__ import annotations

import copy
import pickle
import pkgutil
from collections.abc import Iterator
from importlib import import_module

import pytest

import grit_integrations
from grit_integrations import MissingExtraError, OptionError
from grit_integrations.errors import GritError


def _kinds(kind: type[GritError]) -> Iterator[type[GritError]]:
    yield kind
    for narrower in kind.__subclasses__():
        yield from _kinds(narrower)


def _all_kinds() -> list[type[GritError]]:
    for module in pkgutil.walk_packages(grit_integrations.__path__, "grit_integrations."):
        if module.name.endswith("errors"):  # an error anywhere else would not be found: the tree is drawn in errors.py
            import_module(module.name)
    return sorted(set(_kinds(GritError)), key=lambda kind: kind.__qualname__)


@pytest.mark.parametrize("kind", _all_kinds(), ids=lambda kind: kind.__name__)
def test_every_error_survives_pickle_and_copies(kind: type[GritError]) -> None:
    error = MissingExtraError("some-package", "some") if kind is MissingExtraError else kind("found, wanted, cure")
    error.add_note("what was done until then")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is kind
        assert (str(again), again.args, again.__notes__) == (str(error), error.args, error.__notes__)
        assert getattr(again, "name", None) == getattr(error, "name", None)


def test_errors_that_are_made_by_helpers_travel_too() -> None:
    error = OptionError.unknown("temprature", ["temperature"])
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_the_tree_names_every_error() -> None:
    drawn = grit_integrations.errors.__doc__ or ""
    public = [kind for kind in _all_kinds() if kind.__module__ == "grit_integrations.errors"]
    assert all(kind.__name__ in drawn for kind in public)
