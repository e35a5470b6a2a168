"""What is read of a file of each kind, and how the others are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from pdf_files import pdf

from grit_integrations import IngestError
from grit_integrations.ingest import find_files, read_file


def test_each_kind_of_file(docs: Path) -> None:
    found = find_files([docs])
    read = {path.name: read_file(path) for path in found.files}
    assert sorted(read) == ["heart.txt", "law.pdf", "rails.html", "sky.md"]
    assert read["heart.txt"][0].metadata == {"source": str(docs / "heart.txt"), "title": "heart"}
    assert read["sky.md"][0].metadata["title"] == "Stars"
    assert read["rails.html"][0].page_content == "A railway crosses the plain."
    assert read["rails.html"][0].metadata["title"] == "Rails"
    assert [(page.page_content, page.metadata["page"]) for page in read["law.pdf"]] == [
        ("Clause one is short.", 1),
        ("Clause two is long.", 2),
    ]


def test_html_keeps_paragraphs_and_drops_what_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(
        """<html><head><title> A
        page </title><style>p {color: red}</style></head><body><script>alert(1)</script>
        <h1>Head</h1><p>One <b>bold</b> and
        wrapped.</p><ul><li>first</li><li>second</li></ul>tail<br>end &amp; more</body></html>""",
        encoding="utf-8",
    )
    document = read_file(path)[0]
    assert document.page_content == "Head\n\nOne bold and wrapped.\n\nfirst\n\nsecond\n\ntail\n\nend & more"
    assert document.metadata["title"] == "A page"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_encodings(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes("Größe\r\nzählt 中".encode(encoding))
    assert read_file(path)[0].page_content == "Größe\nzählt 中"


def test_html_says_its_encoding(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_bytes('<meta charset="iso-8859-1"><p>Größe</p>'.encode("latin-1"))
    assert read_file(path)[0].page_content == "Größe"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("empty.txt", b"", "empty"),
        ("blank.md", b" \n\t\n", "empty"),
        ("binary.txt", b"\x7fELF\x02\x00\x01", "binary"),
        ("latin1.txt", "Größe".encode("latin-1"), r"not UTF-8 \(byte 0xf6 at 2\).*iconv"),
        ("half.txt", "Größe".encode("utf-16") + b"x", "not UTF-16"),
        ("image.html", b"\x89PNG\r\n\x00\x00", "binary"),
        ("wrong.html", b'<meta charset="utf-8"><p>Gr\xf6\xdfe</p>' + b"\xff\xfe\xfa" * 9, None),
        ("script.html", b"<script>x = 1</script>", "no text"),
        ("junk.pdf", b"%PDF-1.4 but not really", "no readable PDF"),
        ("text.pdf", b"no pdf at all", "no readable PDF"),
    ],
)
def test_unreadable_files_say_why(tmp_path: Path, name: str, data: bytes, said: str | None) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    if said is None:
        read_file(path)  # whatever HTML declares, browsers show something, and so do we
        return
    with pytest.raises(IngestError, match=said):
        read_file(path)


def test_pdf_without_text_and_pdf_with_password(tmp_path: Path) -> None:
    with pytest.raises(IngestError, match="only images"):
        read_file(pdf(tmp_path / "scan.pdf", ""))
    with pytest.raises(IngestError, match="encrypted"):
        read_file(pdf(tmp_path / "secret.pdf", "Hidden.", password="x"))
