"""The text of HTML: what a browser would show of it, and in time that grows with its size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from growth import assert_linear
from hostile_shapes import HTML
from hypothesis import given, settings
from hypothesis import strategies as st

from grit_integrations.ingest.html_text import decode_page, page_text


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("a<b>b</b>c", "abc"),
        ("one<br/>two<BR>three", "one\n\ntwo\n\nthree"),
        ("<p>one<p>two</p>three", "one\n\ntwo\n\nthree"),
        ("<ul><li>first<li>second</ul>tail", "first\n\nsecond\n\ntail"),
        ('<a title="a > b">link</a>', "link"),
        ("<a title='a > b'>link</a>", "link"),
        ("<p title=it's>its</p>own", "its\n\nown"),
        ('<a href="x>link</a> rest', "link rest"),  # the quote never closes
        ("a < b and b > c", "a < b and b > c"),
        ("x <é> y </é> z", "x <é> y z"),
        ("1 <2 and 3</4", "1 <2 and 3</4"),
        ("cut off <a href=", "cut off <a href="),
        ("a<!-- <p>hidden --> b<!--> c<!DOCTYPE html> d<?php x ?> e", "a b c d e"),
        ("a<!-- never closed <p>b", "a"),
        ("<script>if (a < b) '<p>'</script>text<style>p {}</style>", "text"),
        ("<SCRIPT>x</SCRIPT >text", "text"),
        ("<script/>text", "text"),
        ("<script>never closed", ""),
        ("<svg><title>icon</title><text>a</text></svg>text", "text"),
        ("<div><svg>open</div>text", "text"),
        ("<svg><svg>a</svg>b</svg>text", "text"),
        ("<noscript>Enable scripts</noscript>text<template><p>x</p></template>", "text"),
        ("<svg/>text", "text"),
        ("<head><meta charset=utf-8><p>text", "text"),  # no </head>
        ("&lt;b&gt; &amp;amp; &eacute;&#233;&#xE9; &notit; &nosuch; & &#", "<b> &amp; ééé ¬it; &nosuch; & &#"),
        ("&#0;&#xD800;&#x110000;", "\ufffd\ufffd\ufffd"),
        ("&#" + "9" * 5000 + ";", "\ufffd"),
        ("private \ue000 use", "private \ue000 use"),
        ("<pre>a\n  b</pre>", "a b"),
        ("", ""),
    ],
)
def test_what_is_shown(page: str, text: str) -> None:
    assert page_text(page)[1] == text


@pytest.mark.parametrize(
    ("page", "title"),
    [
        ("<title>a &amp;\n b</title>", "a & b"),
        ("<TITLE lang=en>a</TITLE>", "a"),
        ("<title></title><title>second</title>", "second"),
        ("<title>first</title><title>second</title>", "first"),
        ("<svg><title>icon</title></svg><title>page</title>", "page"),
        ("<p>none", ""),
    ],
)
def test_titles(page: str, title: str) -> None:
    assert page_text(page)[0] == title


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("Größe".encode(), "Größe"),
        ("Größe".encode("cp1252"), "Größe"),  # what browsers take undeclared bytes for
        ('<meta charset="iso-8859-1">“Größe”'.encode("cp1252"), "“Größe”"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=koi8-r">мир'.encode("koi8-r"), "мир"),
        ('<?xml version="1.0" encoding="Shift_JIS"?>日本'.encode("shift_jis"), "日本"),
        ("<meta charset=gb2312>中文".encode("gb2312"), "中文"),
        ("<meta charset=utf-16>Größe".encode(), "Größe"),  # it was read as ASCII, so it is no UTF-16
        ("<meta charset=nonsense>Größe".encode(), "Größe"),
        (b'<meta charset="utf-8">Gr' + b"\xf6\xdf" + b"e", "Gr\ufffd\ufffde"),
        *(
            (f"<meta charset={name}>a-b +AGE- \\u0041".encode(), "a-b +AGE- \\u0041")
            for name in ("zip", "base64", "rot13", "punycode", "utf-7", "unicode_escape", "idna")  # Python's own
        ),
    ],
)
def test_encodings(data: bytes, text: str) -> None:
    assert page_text(decode_page(data))[1] == text


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.sampled_from(
            ["<", "</", ">", "/", "!--", "-->", "p", "svg", "title", "script", " ", '="', "'", "x", "&#", "9", ";"]
        ),
        max_size=30,
    )
)
def test_any_markup_is_read_to_its_end(parts: list[str]) -> None:
    title, text = page_text("before<p>" + "".join(parts))
    assert text.startswith("before")
    assert title == " ".join(title.split())


@pytest.mark.parametrize("shape", HTML.values(), ids=HTML.keys())
def test_time_grows_with_the_size(shape: Callable[[int], str]) -> None:
    assert_linear(lambda page: page_text(decode_page(page.encode())), shape, 60_000)


def test_depth_is_no_limit() -> None:
    assert page_text("<div><b>" * 200_000 + "deep")[1] == "deep"
