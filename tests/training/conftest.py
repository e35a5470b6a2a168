"""The tiny recipe of the examples, trained once for all tests that only look at the result."""

from __future__ import annotations

import pytest
from recipes import Trained, tiny_recipe

from grit_integrations.training import train


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The tiny recipe, trained to its end."""
    config = tiny_recipe(tmp_path_factory.mktemp("tiny-run"))
    return Trained(config, train(config, progress=False))
