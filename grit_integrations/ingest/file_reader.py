"""Read a file as text, or say in one sentence why it cannot be read."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from grit_integrations.errors import IngestError, MissingExtraError

try:
    from langchain_core.documents import Document
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "langchain_core":
        raise
    raise MissingExtraError("langchain-core", "cli") from None

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
_HTML_BLOCKS = (
    *("address", "article", "aside", "blockquote", "dd", "div", "dl", "dt", "figcaption", "figure", "footer", "form"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre", "section", "table"),
    *("td", "th", "tr", "ul"),
)
_HTML_UNREAD = ("script", "style", "noscript", "template", "head", "title", "svg")
_PARAGRAPH = "\ue000"  # stands for a paragraph break while white space is collapsed
_MARKDOWN_TITLE = re.compile(r"^#\s+(.+?)\s*#*$", re.MULTILINE)


def read_file(path: Path, data: bytes | None = None) -> list[Document]:
    """Return a file's text as documents with `source` and `title` (a PDF gives one per page, with `page`).

    Args:
        path: its ending decides how it is read; unknown endings are read as plain text.
        data: its bytes, if they were read already.

    Raises:
        IngestError: unreadable, empty, binary, not UTF-8, encrypted or without text; the message says which.
    """
    data = read_bytes(path) if data is None else data
    if not data.strip():
        raise IngestError("the file is empty")
    read = _READERS.get(path.suffix.lower(), _read_text)
    documents = read(path, data)
    if not any(document.page_content.strip() for document in documents):
        raise IngestError("the file has no text in it")
    return [document for document in documents if document.page_content.strip()]


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        IngestError: the operating system refuses; the message says why.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise IngestError(f"the file cannot be opened: {error.strerror or error}") from error


def _read_text(path: Path, data: bytes) -> list[Document]:
    return [_document(path, decode(data), path.stem)]


def _read_markdown(path: Path, data: bytes) -> list[Document]:
    text = decode(data)
    heading = _MARKDOWN_TITLE.search(text)
    return [_document(path, text, heading[1] if heading else path.stem)]


def _read_html(path: Path, data: bytes) -> list[Document]:
    try:
        from bs4 import BeautifulSoup
    except ModuleNotFoundError as error:
        raise MissingExtraError("beautifulsoup4", "cli") from error

    if _is_binary(data):
        raise IngestError("the file is binary, not HTML")
    soup = BeautifulSoup(data, "html.parser")
    if soup.contains_replacement_characters:
        raise IngestError(f"the file is not valid {soup.original_encoding or 'UTF-8'}; save it as UTF-8")
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    for tag in soup(_HTML_UNREAD):
        tag.decompose()
    for tag in soup("br"):
        tag.replace_with(_PARAGRAPH)
    for tag in soup(_HTML_BLOCKS):
        tag.insert_before(_PARAGRAPH)
        tag.insert_after(_PARAGRAPH)
    paragraphs = (" ".join(part.split()) for part in soup.get_text().split(_PARAGRAPH))
    return [_document(path, "\n\n".join(filter(None, paragraphs)), title or path.stem)]


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
            pages = [_document(path, page.extract_text(), title, page=n) for n, page in enumerate(reader.pages, 1)]
        except IngestError:
            raise
        except Exception as error:  # pypdf meets broken files with exceptions of many kinds
            raise IngestError(f"the file is no readable PDF ({type(error).__name__}: {error})") from error
    if not any(page.page_content.strip() for page in pages):
        raise IngestError("the PDF has no text, only images; run OCR on it first")
    return pages


_READERS: Mapping[str, Callable[[Path, bytes], list[Document]]] = {
    **dict.fromkeys(TEXT, _read_text),
    **dict.fromkeys(MARKDOWN, _read_markdown),
    **dict.fromkeys(HTML, _read_html),
    **dict.fromkeys(PDF, _read_pdf),
}


def _document(path: Path, text: str, title: str, **metadata: int) -> Document:
    # A PDF's font tables can yield NUL and half surrogates; no prompt may hold them.
    clean = text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
    return Document(clean, metadata={"source": str(path), "title": " ".join(title.split()) or path.stem, **metadata})


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
    return b"\x00" in data and not data.startswith(tuple(mark for mark, _ in _BYTE_ORDER_MARKS))


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
