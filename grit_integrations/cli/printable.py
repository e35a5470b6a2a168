"""Text as a terminal may have it: characters that would control it are spelled out."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# C0 but for tab and line feed, DEL and C1; what turns the direction of the text around it; bytes that are no UTF-8.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LINES = re.compile(r"[\t\n]")


def printable(text: str, *, lines: bool = True) -> str:
    """Return `text` with control characters as Python would write them; without `lines`, line feeds and tabs too.

    >>> printable("\\x1b]0;owned\\x07 text")
    '\\\\x1b]0;owned\\\\x07 text'
    """
    plain = _CONTROL.sub(_spelled, text)
    return plain if lines else _LINES.sub(_spelled, plain)


def _spelled(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


class _PlainRecord(logging.LogRecord):
    def getMessage(self) -> str:  # noqa: N802  # logging's own name
        return printable(super().getMessage())


@contextmanager
def plain_logs() -> Iterator[None]:
    """Spell out control characters in what libraries log and warn of, whoever writes it to the terminal."""
    usual = logging.getLogRecordFactory()
    logging.setLogRecordFactory(_PlainRecord)
    with warnings.catch_warnings():
        logging.captureWarnings(True)
        try:
            yield
        finally:
            logging.captureWarnings(False)
            logging.setLogRecordFactory(usual)
