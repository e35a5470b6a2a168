"""The title and the text of an HTML page, in time that grows with its size whatever its tags do.

No tree is built: a page is read once from its start to its end, so that neither a million siblings nor a million nested
elements cost more than their length. What a browser would do with broken markup is done here too, if it is cheap.
"""

from __future__ import annotations

import codecs
import html
import re
from collections import Counter
from contextlib import suppress

_BLOCKS = frozenset(
    (
        *("address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "figcaption", "figure", "footer"),
        *("form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre", "section"),
        *("table", "td", "th", "tr", "ul"),
    )
)
_RAW = frozenset(("script", "style", "title"))  # what looks like a tag inside them is none
_UNREAD = frozenset(("noscript", "svg", "template"))
_VOID = frozenset(
    ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr")
)

# Possessive throughout: a quote that never closes is looked for once, and no failure is tried again with less text.
_TAG = re.compile(r"""<(/?)([a-zA-Z][^\s/>]*+)((?:[^=>]++|=\s*+(?:"[^"]*+"|'[^']*+'|))*+)>""")
_NAME = re.compile(r"/?[a-zA-Z]")  # what makes a tag of a `<` in front of it
_BOGUS_COMMENT = re.compile(r"[!?]|/(?![a-zA-Z])")
_END_OF_RAW = {name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in _RAW}
_REFERENCE = re.compile(r"&(?:#(?:[xX][0-9a-fA-F]++|[0-9]++)|[a-zA-Z][a-zA-Z0-9]{1,31}+);?")
_LONGEST_REFERENCE = 64  # characters; Python refuses numbers of thousands of digits with an error

_DECLARED = re.compile(
    rb"""<meta[^>]*?charset\s*=\s*["']?\s*([\w.:-]{1,40})|^\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]{1,40})""",
    re.IGNORECASE,
)
_HEAD = 2048  # bytes in which an encoding is declared
# As browsers read them (encoding.spec.whatwg.org). Python knows more, some of which unpack or take quadratic time.
_SAME_ENCODING = frozenset(
    (
        *("utf-8", "cp866", "cp874", "koi8-r", "koi8-u", "mac-roman", "mac-cyrillic", "gb18030", "big5", "euc_jp"),
        *("iso2022_jp", *(f"cp{number}" for number in range(1250, 1259))),
        *(f"iso8859-{number}" for number in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)),
    )
)
_WEB_ENCODING = {
    **{name: name for name in _SAME_ENCODING},
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "euc_kr": "cp949",
    "cp949": "cp949",
    "shift_jis": "cp932",
    "cp932": "cp932",
}


def decode_page(data: bytes) -> str:
    """Return a page without a byte order mark as text, in the encoding that it declares, else UTF-8 or Windows-1252.

    As in a browser, bytes that the encoding does not have become U+FFFD.
    """
    declared = _DECLARED.search(data[:_HEAD])
    if declared is not None:
        with suppress(LookupError):
            name = codecs.lookup((declared[1] or declared[2]).decode("ascii", "replace")).name
            return data.decode(_WEB_ENCODING.get(name, "utf-8"), "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def page_text(page: str) -> tuple[str, str]:
    """Return a page's title, empty if it has none, and its text: paragraphs with a blank line between them.

    >>> page_text("<title>Rails</title><p>One <b>bold</b>\\nword.<p>Fish &amp; chips")
    ('Rails', 'One bold word.\\n\\nFish & chips')
    """
    reading = _Reading()
    at = 0
    while (tag := page.find("<", at)) >= 0:
        reading.text(page[at:tag])
        after = reading.markup(page, tag)
        if after is None:  # never closed, so nothing behind it is either
            at = tag
            break
        at = after
    reading.text(page[at:])
    reading.end_paragraph()
    return reading.title, "\n\n".join(reading.paragraphs)


class _Reading:
    """What was read of a page so far, and which elements are open."""

    def __init__(self) -> None:
        self.title = ""
        self.paragraphs: list[str] = []
        self._pieces: list[str] = []  # of the paragraph at hand
        self._open: Counter[str] = Counter()
        self._unread = ""  # the outermost open element whose text is not read
        self._inside: Counter[str] = Counter()  # what is open in that, itself included

    def text(self, raw: str) -> None:
        """Take text between two tags."""
        if raw and not self._unread:
            self._pieces.append(_unescaped(raw))

    def end_paragraph(self) -> None:
        """Begin a new paragraph with what follows."""
        if paragraph := " ".join("".join(self._pieces).split()):
            self.paragraphs.append(paragraph)
        self._pieces.clear()

    def markup(self, page: str, at: int) -> int | None:
        """Take what begins with the `<` at a place; return where it ends, or `None` if it never does."""
        following = page[at + 1 : at + 4]
        if following == "!--":
            end = page.find("-->", at + 2)
            return end + 3 if end >= 0 else len(page)
        if _BOGUS_COMMENT.match(following):
            return page.find(">", at) + 1 or None
        if not _NAME.match(following):
            self.text("<")
            return at + 1
        tag = _TAG.match(page, at)
        if tag is None:
            return None
        name = tag[2].lower()
        if tag[1]:
            self._end(name)
        elif name in _RAW and not tag[3].endswith("/"):
            return self._raw(page, name, tag.end())
        else:
            self._start(name, empty=name in _VOID or tag[3].endswith("/"))
        return tag.end()

    def _start(self, name: str, *, empty: bool) -> None:
        if name in _BLOCKS and not self._unread:
            self.end_paragraph()
        if empty:
            return
        if name in _UNREAD and not self._unread:
            self._unread = name
        (self._inside if self._unread else self._open)[name] += 1

    def _end(self, name: str) -> None:
        if self._unread:
            inside = self._inside[name] > 0
            self._inside[name] -= inside
            if inside and (name != self._unread or self._inside[name]):
                return
            if not inside and not self._open[name]:
                return
            self._unread = ""  # it ended, or what is around it did
            self._inside.clear()
            if inside:
                return
        if name in _BLOCKS:
            self.end_paragraph()
        self._open[name] -= self._open[name] > 0

    def _raw(self, page: str, name: str, start: int) -> int:
        """Pass over an element in which nothing is a tag but its own end; return where its text ends."""
        end = _END_OF_RAW[name].search(page, start)
        stop = len(page) if end is None else end.start()
        if name == "title" and not self.title and not self._unread:
            self.title = " ".join(_unescaped(page[start:stop]).split())
        return stop


def _unescaped(text: str) -> str:
    return _REFERENCE.sub(_character, text) if "&" in text else text


def _character(reference: re.Match[str]) -> str:
    return html.unescape(reference[0]) if len(reference[0]) <= _LONGEST_REFERENCE else "\ufffd"
