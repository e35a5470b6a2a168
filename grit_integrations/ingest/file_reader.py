"""Read a file as text, or say in one sentence why it cannot be read."""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from grit_integrations.errors import IngestError, MissingExtraError
from grit_integrations.ingest.html_text import decode_page, page_text
from grit_integrations.kv.sizes import format_size

try:
    from langchain_core.documents import Document
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "langchain_core":
        raise
    raise MissingExtraError("langchain-core", "cli") from None

if TYPE_CHECKING:
    from pypdf import PdfReader

TEXT = frozenset({".txt", ".text"})
MARKDOWN = frozenset({".md", ".markdown"})
HTML = frozenset({".html", ".htm", ".xhtml"})
PDF = frozenset({".pdf"})
SUFFIXES = TEXT | MARKDOWN | HTML | PDF

# Longer marks first: UTF-32's begins with UTF-16's.
_BYTE_ORDER_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
# `#`s behind a title close the heading if a space stands before them. Whatever the line holds is read once.
_MARKDOWN_TITLE = re.compile(r"^#[ \t]++(\S[^\n]*+)", re.MULTILINE)
_CLOSED_TITLE = re.compile(r"(?<!\s)\s++#++$")
_LONGEST_TITLE = 200  # characters; each passage of a file carries its title

MOST_BYTES = 100_000_000  # of a file that is read, unless a caller says otherwise


def read_file(path: Path, data: bytes | None = None) -> list[Document]:
    """Return a file's text as documents with `source` and `title` (a PDF gives one per page, with `page`).

    Args:
        path: its ending decides how it is read; unknown endings are read as plain text.
        data: its bytes, if they were read already; else at most 100 MB are read.

    Raises:
        IngestError: unreadable, too large, empty, binary, not UTF-8, encrypted or without text; the message says which.
    """
    data = read_bytes(path) if data is None else data
    if not data.strip():
        raise IngestError("the file is empty")
    read = _READERS.get(path.suffix.lower(), _read_text)
    documents = read(path, data)
    if not any(document.page_content.strip() for document in documents):
        raise IngestError("the file has no text in it")
    return [document for document in documents if document.page_content.strip()]


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """Return a file's bytes, at most `most` of them.

    Raises:
        IngestError: the operating system refuses, the file is larger, or it is none any more; the message says which.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:  # `Path.open` takes no opener
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise IngestError("it is no regular file any more")
            data = b"" if state.st_size > most else file.read(most + 1)
    except OSError as error:
        raise IngestError(f"the file cannot be opened: {error.strerror or error}") from error
    if max(state.st_size, len(data)) > most:  # it may have grown since
        raise IngestError(
            f"the file has {format_size(max(state.st_size, len(data)))}, and at most {format_size(most)} are read; "
            "--max-file-size (max_file_bytes in Python) raises the bound"
        )
    return data


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting for a writer, should a named pipe have taken its place."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _read_text(path: Path, data: bytes) -> list[Document]:
    return [_document(path, decode(data), path.stem)]


def _read_markdown(path: Path, data: bytes) -> list[Document]:
    text = decode(data)
    heading = _MARKDOWN_TITLE.search(text)
    title = _CLOSED_TITLE.sub("", heading[1].rstrip()) if heading else path.stem
    return [_document(path, text, title)]


def _read_html(path: Path, data: bytes) -> list[Document]:
    if _is_binary(data):
        raise IngestError("the file is binary, not HTML")
    title, text = page_text(decode(data) if _is_marked(data) else decode_page(data))
    return [_document(path, text, title or path.stem)]


def _read_pdf(path: Path, data: bytes) -> list[Document]:
    try:
        from pypdf import PdfReader
    except ModuleNotFoundError as error:
        raise MissingExtraError("pypdf", "cli") from error

    with _silenced("pypdf"):
        try:
            reader = PdfReader(BytesIO(data))
            if reader.is_encrypted and not reader.decrypt(""):
                raise IngestError("the PDF is encrypted; save a copy without a password")
            title = str((reader.metadata.title if reader.metadata else None) or "").strip() or path.stem
            pages = [_document(path, text, title, page=n) for n, text in enumerate(_page_texts(reader), 1)]
        except IngestError:
            raise
        except Exception as error:  # pypdf meets broken files with exceptions of many kinds
            raise IngestError(f"the file is no readable PDF ({type(error).__name__}: {error})") from error
    if not any(page.page_content.strip() for page in pages):
        raise IngestError("the PDF has no text, only images; run OCR on it first")
    return pages


def _page_texts(reader: PdfReader) -> Iterator[str]:
    """Yield each page's text; pypdf bounds what one stream unpacks to, not how many pages show the same one."""
    room = MOST_BYTES
    for page in reader.pages:
        text = page.extract_text()
        room -= len(text)
        if room < 0:
            raise IngestError(f"the PDF unpacks to more than {format_size(MOST_BYTES)} of text; split it")
        yield text


_READERS: Mapping[str, Callable[[Path, bytes], list[Document]]] = {
    **dict.fromkeys(TEXT, _read_text),
    **dict.fromkeys(MARKDOWN, _read_markdown),
    **dict.fromkeys(HTML, _read_html),
    **dict.fromkeys(PDF, _read_pdf),
}


def _document(path: Path, text: str, title: str, **metadata: int) -> Document:
    # A PDF's font tables can yield NUL and half surrogates; no prompt may hold them.
    clean = text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
    return Document(clean, metadata={"source": str(path), "title": _short(title) or path.stem, **metadata})


def _short(title: str) -> str:
    """Return a title as one line that is not too long."""
    line = " ".join(title.encode("utf-8", "replace").decode("utf-8").replace("\x00", "").split())
    return line if len(line) <= _LONGEST_TITLE else f"{line[: _LONGEST_TITLE - 1]}…"


def decode(data: bytes) -> str:
    """Return `data` as text: UTF-8, or what its byte order mark says.

    Raises:
        IngestError: binary data or another encoding; the message says how to convert it.
    """
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), None)
    if encoding is None and _is_binary(data):
        raise IngestError("the file is binary, not text")
    try:
        text = data.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        raise IngestError(
            f"the file is not {(encoding or 'utf-8').upper()} (byte 0x{data[error.start]:02x} at {error.start:,}); "
            "convert it, for example: iconv -f latin1 -t utf-8 FILE"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _is_binary(data: bytes) -> bool:
    return b"\x00" in data and not _is_marked(data)


def _is_marked(data: bytes) -> bool:
    return data.startswith(tuple(mark for mark, _ in _BYTE_ORDER_MARKS))


@contextmanager
def _silenced(name: str) -> Iterator[None]:
    """Keep a library's remarks about a file off the screen; what matters of them becomes our error."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
