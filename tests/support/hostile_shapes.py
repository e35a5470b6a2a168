"""Files that cost a careless reader quadratic time: each shape is a function of its length in characters."""

from __future__ import annotations

from collections.abc import Callable

HTML: dict[str, Callable[[int], str]] = {
    "rows of a table": lambda n: "<table>" + "<tr><td>name</td><td>value</td></tr>" * (n // 36) + "</table>",
    "siblings": lambda n: "<p>a" * (n // 4),
    "line breaks": lambda n: "a<br>" * (n // 5),
    "nested elements": lambda n: "<div>" * (n // 5) + "text",
    "nested unread elements": lambda n: "<svg>" * (n // 5),
    "ends without starts": lambda n: "<svg><g></p></b>" * (n // 16),
    "tags that never close": lambda n: "<a " * (n // 3),
    "quotes that hide the end of tags": lambda n: """<a x=">" y='>' """ * (n // 15),
    "quotes that never close": lambda n: """<a x='"> y=" """ * (n // 13),
    "comments that never close": lambda n: "<!--" * (n // 4),
    "declarations that never close": lambda n: "<!" * (n // 2),
    "scripts that never close": lambda n: "<script>" * (n // 8),
    "ends of scripts that are none": lambda n: "<script>" + "</scripts" * (n // 9),
    "titles that never close": lambda n: "<title>" * (n // 7),
    "less-than signs": lambda n: "<" * n,
    "ampersands": lambda n: "&" * n,
    "a reference of many digits": lambda n: "&#" + "9" * n + ";",
    "a reference of many letters": lambda n: "&" + "a" * n,
    "attributes": lambda n: "<a " + "x=y " * (n // 4) + ">text",
    "equals signs and spaces": lambda n: "<a =" + " " * n + ">text",
    "meta tags": lambda n: "<meta " * (n // 6),
}
MARKDOWN: dict[str, Callable[[int], str]] = {
    "a heading with spaces inside": lambda n: "# a" + " " * n + "x\n",
    "a heading of number signs": lambda n: "# a" + " #" * (n // 2) + "x\n",
    "a heading that is never one": lambda n: ("#" + " " * 50 + "\n") * (n // 52) + "x",
    "number signs": lambda n: "#" * n + " x",
    "long headings": lambda n: ("# " + "word " * 180 + "\n") * (n // 903),
    "short headings": lambda n: "# a\n" * (n // 4),
}
TEXT: dict[str, Callable[[int], str]] = {
    "dots": lambda n: "Contents " + "." * n + "x",
    "marks and quotes": lambda n: '."' * (n // 2) + "x",
    "closing quotes": lambda n: "." + '"' * n + "x",
    "opening quotes": lambda n: ". " + '"' * n,
    "question marks apart": lambda n: "? " * (n // 2),
    "spaces": lambda n: "a" + " " * n + "b",
    "lines of spaces": lambda n: "a" + "\n " * (n // 2) + "b",
    "tabs behind a line break": lambda n: "a\n" + "\t" * n + "b",
    "digits behind a line break": lambda n: "a\n" + "1" * n + "b",
    "list items": lambda n: "\n- a" * (n // 4),
    "one word": lambda n: "x" * n,
    "zero-width spaces": lambda n: "a" + "\u200b" * n,
    "combining marks": lambda n: "a" + "\u0301" * n,
    "control markers": lambda n: "<|user|>" * (n // 8),
}
