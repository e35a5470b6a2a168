"""An overflow of the window as LangChain knows it: what summarising middleware and fallbacks catch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from langchain_core import exceptions

from grit_integrations.errors import ContextOverflowError


class LangChainContextOverflowError(ContextOverflowError, exceptions.ContextOverflowError):
    """A prompt longer than the model's window; both this package's error and LangChain's."""


@contextmanager
def overflow_as_langchains() -> Iterator[None]:
    """Raise an overflow of the window so that `except` of either library catches it."""
    try:
        yield
    except LangChainContextOverflowError:
        raise
    except ContextOverflowError as error:
        raise LangChainContextOverflowError(*error.args).with_traceback(error.__traceback__) from None
