"""What is read of a file of each kind, and how the others are refused."""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from growth import assert_linear
from hostile_shapes import MARKDOWN
from hypothesis import given, settings
from hypothesis import strategies as st
from pdf_files import pdf

from grit_integrations import IngestError
from grit_integrations.ingest import file_reader, find_files, read_file
from grit_integrations.ingest.file_reader import read_bytes


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


def test_html_in_its_encodings() -> None:
    declared = '<meta charset="iso-8859-1"><p>Größe</p>'.encode("latin-1")
    marked = "<p>Größe</p>".encode("utf-16")
    assert [read_file(Path("page.html"), data)[0].page_content for data in (declared, marked)] == ["Größe", "Größe"]


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("text\n# A title\n# Another", "A title"),
        ("#   spaces \t around   \n", "spaces around"),
        ("# closed ##", "closed"),
        ("# C#", "C#"),
        ("# C# #", "C#"),
        ("#\n\nText", "notes"),  # an empty heading
        ("#hashtag", "notes"),
        ("## second level", "notes"),
        ("# ##", "##"),
    ],
)
def test_titles_of_markdown(text: str, title: str) -> None:
    assert read_file(Path("notes.md"), text.encode())[0].metadata["title"] == title


@pytest.mark.parametrize("shape", MARKDOWN.values(), ids=MARKDOWN.keys())
def test_finding_a_title_takes_linear_time(shape: Callable[[int], str]) -> None:
    assert_linear(lambda text: read_file(Path("notes.md"), text.encode()), shape, 20_000)


def test_a_title_is_cut_since_every_passage_carries_it(tmp_path: Path) -> None:
    heading = read_file(Path("notes.md"), b"# " + b"word " * 10_000 + b"\n\nText.")[0].metadata["title"]
    title = read_file(Path("page.html"), b"<title>" + b"word " * 10_000 + b"</title>Text.")[0].metadata["title"]
    assert heading == title == ("word " * 40)[:199] + "…"


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


def test_a_file_is_read_up_to_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"x" * 1000)
    assert read_bytes(path, 1000) == b"x" * 1000
    with pytest.raises(IngestError, match=r"has 1\.0 kB, and at most 999 B are read; --max-file-size .* raises"):
        read_bytes(path, 999)
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(IngestError, match=r"1\.1 TB, and at most 100\.0 MB"):
        read_file(path)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs a file that has more than its size says")
def test_a_file_that_grows_is_read_as_it_is_now() -> None:
    path = Path("/proc/self/status")
    assert path.stat().st_size == 0
    assert b"Pid" in read_bytes(path)
    with pytest.raises(IngestError, match="at most 9 B"):
        read_bytes(path, 9)


def test_what_took_the_place_of_a_file_never_blocks(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    found: dict[str, str] = {}

    def read(name: str) -> None:
        try:
            read_bytes(tmp_path / name)
        except IngestError as error:
            found[name] = str(error)

    names = ("pipe.txt", "folder.txt", "loop.txt", "gone.txt")
    for name in names:
        thread = threading.Thread(target=read, args=[name], daemon=True)
        thread.start()
        thread.join(10)
    assert found.keys() == set(names)
    assert found["pipe.txt"] == "it is no regular file any more"


def test_a_pdf_of_many_pages_that_show_one_large_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pdf(tmp_path / "bomb.pdf", *["Forty characters stand in this line here."] * 5)
    monkeypatch.setattr(file_reader, "MOST_BYTES", 200)
    with pytest.raises(IngestError, match="unpacks to more than 200 B of text"):
        read_file(path)


def test_a_stream_that_unpacks_to_much_more_is_refused(tmp_path: Path) -> None:
    content = zlib.compress(b"BT /F1 12 Tf (text) Tj ET\n" * 4_000_000, 9)  # 108 MB in 0.3 MB
    path = pdf(tmp_path / "bomb.pdf", "x")
    whole = path.read_bytes()
    old = whole[whole.index(b"<< /Length") : whole.index(b"endstream")]
    new = b"<< /Length %d /Filter /FlateDecode >>\nstream\n%b\n" % (len(content), content)
    with pytest.raises(IngestError, match="no readable PDF"):
        read_file(path, whole.replace(old, new))


@settings(deadline=None, max_examples=150)
@given(cut=st.integers(0, 2000), noise=st.binary(max_size=20))
def test_any_damage_to_a_pdf_is_an_ingest_error(pdf_bytes: bytes, cut: int, noise: bytes) -> None:
    damaged = pdf_bytes[: cut % len(pdf_bytes)] + noise + pdf_bytes[(cut + len(noise)) % len(pdf_bytes) :]
    with suppress(IngestError):
        read_file(Path("damaged.pdf"), damaged)


@settings(deadline=None, max_examples=300)
@given(data=st.binary(max_size=60), suffix=st.sampled_from([".txt", ".md", ".html"]))
def test_any_bytes_are_text_or_an_ingest_error(data: bytes, suffix: str) -> None:
    with suppress(IngestError):
        for document in read_file(Path(f"any{suffix}"), data):
            assert document.page_content.strip()
            document.page_content.encode()
            assert "\x00" not in document.page_content


@pytest.fixture(scope="module")
def pdf_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return pdf(tmp_path_factory.mktemp("pdf") / "law.pdf", "Clause one.", "Clause two.").read_bytes()
