"""Where words begin and end in a text: the places at which a quote may be cut.

The rule, simpler than Unicode's UAX #29 and stricter where a cut would change what is said:

* a quote begins with a letter, digit or symbol, or with opening punctuation right before one; it ends with one, or with
  closing punctuation right behind one that is no comma, colon, semicolon or dash;
* it is never cut between letters and digits, inside a number (`3.8`, `1,000`, `-5`), inside `don't` (but before the
  `'s` of a possessive), before a combining mark, or inside an emoji sequence;
* scripts that are written without spaces (Han, kana, Thai, Khmer, ...) may be cut between any two characters.
"""

from __future__ import annotations

import functools
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

_ZERO_WIDTH_JOINER = "\u200d"
_SEPARATORS = "\u200b\ufeff"  # formats that Unicode does not call spaces
_NO_END = frozenset(",;:،؛、，；：")
_APOSTROPHES = frozenset("'’")
_BETWEEN_DIGITS = frozenset(".,:/٫٬’'")
_SIGNS = frozenset("-−+±.")
_FIRST_VOWELS = frozenset("เแโใไເແໂໃໄ")  # written before the consonant they follow in speech
_LAST_VOWELS = frozenset("ำຳ")
_SPACELESS = (  # first and last code point of each range
    *(0x0E00, 0x0EFF),  # Thai, Lao
    *(0x0F00, 0x0FFF),  # Tibetan
    *(0x1000, 0x109F),  # Myanmar
    *(0x1780, 0x17FF),  # Khmer
    *(0x1950, 0x19DF),  # Tai Le, New Tai Lue
    *(0x3040, 0x30FF),  # Hiragana, Katakana
    *(0x31F0, 0x31FF),
    *(0x3400, 0x4DBF),  # Han
    *(0x4E00, 0x9FFF),
    *(0xA980, 0xA9DF),  # Javanese
    *(0xF900, 0xFAFF),
    *(0xFF66, 0xFF9F),
    *(0x20000, 0x3FFFF),
)


class _Kind(Enum):
    SPACE = "space"
    EXTEND = "belongs to the character before it"
    CONTENT = "letter, digit or symbol"
    OPENING = "opening punctuation"
    CLOSING = "closing punctuation"
    PUNCTUATION = "either, by what stands around it"


@dataclass(frozen=True, slots=True)
class Boundaries:
    """Positions, in characters and in order, at which a quote of one text may start and end."""

    starts: Sequence[int]
    ends: Sequence[int]


def word_boundaries(text: str) -> Boundaries:
    """Return where quotes of `text` may start and end, by the rule above.

    A quote from any start to any later end holds at least one letter, digit or symbol.

    >>> text = "It rose 3.8% (by Newton's law)."
    >>> found = word_boundaries(text)
    >>> [text[start:].split()[0] for start in found.starts]
    ['It', 'rose', '3.8%', '(by', 'by', "Newton's", 'law).']
    >>> [text[:end].split()[-1] for end in found.ends]
    ['It', 'rose', '3.8', '3.8%', '(by', 'Newton', "Newton's", 'law', 'law)', 'law).']
    """
    kinds = _kinds(text)
    bases = _bases(kinds)
    leads, trails = _leads(kinds), _trails(kinds)
    length = len(text)
    cuts = [index for index in range(length) if index == 0 or _is_cut(text, kinds, bases, index)]
    starts = [index for index in cuts if leads[index] and kinds[index] is not _Kind.EXTEND]
    ends = [index for index in (*cuts, length) if index and trails[index - 1] and _may_end(text[bases[index - 1]])]
    return Boundaries(starts, ends)


def _kinds(text: str) -> list[_Kind]:
    """Return the kind of each character; punctuation opens behind a space and before something else."""
    kinds = [_kind(character) for character in text]
    before = _Kind.SPACE
    for index, kind in enumerate(kinds):
        if kind is _Kind.PUNCTUATION:
            opens = before in (_Kind.SPACE, _Kind.OPENING) and kinds[index + 1 : index + 2] not in ([], [_Kind.SPACE])
            kinds[index] = _Kind.OPENING if opens else _Kind.CLOSING
        if kinds[index] is not _Kind.EXTEND:
            before = kinds[index]
    return kinds


@functools.lru_cache(maxsize=4096)
def _kind(character: str) -> _Kind:
    category = unicodedata.category(character)
    if category[0] == "Z" or category == "Cc" or character in _SEPARATORS:
        return _Kind.SPACE
    if category[0] == "M" or category == "Cf" or "\U0001f3fb" <= character <= "\U0001f3ff":
        return _Kind.EXTEND
    if category == "Ps":
        return _Kind.OPENING
    if category == "Pe":
        return _Kind.CLOSING
    return _Kind.PUNCTUATION if category[0] == "P" and category != "Pc" else _Kind.CONTENT


def _bases(kinds: Sequence[_Kind]) -> list[int]:
    """Return for each character the last one up to it that extends no other, or -1."""
    bases, base = [], -1
    for index, kind in enumerate(kinds):
        base = base if kind is _Kind.EXTEND else index
        bases.append(base)
    return bases


def _leads(kinds: Sequence[_Kind]) -> list[bool]:
    """Tell of each character whether nothing but opening punctuation stands between it and content."""
    leads, ahead = [], False
    for kind in reversed(kinds):
        ahead = kind is _Kind.CONTENT or (ahead and kind in (_Kind.OPENING, _Kind.EXTEND))
        leads.append(ahead)
    return leads[::-1]


def _trails(kinds: Sequence[_Kind]) -> list[bool]:
    """Tell of each character whether nothing but closing punctuation stands between it and content before it."""
    trails, behind = [], False
    for kind in kinds:
        behind = kind is _Kind.CONTENT or (behind and kind in (_Kind.CLOSING, _Kind.EXTEND))
        trails.append(behind)
    return trails


def _may_end(character: str) -> bool:
    return character not in _NO_END and unicodedata.category(character) != "Pd"


def _is_cut(text: str, kinds: Sequence[_Kind], bases: Sequence[int], index: int) -> bool:
    """Tell whether a word may end before `text[index]` and another begin with it."""
    joined = text[index - 1] == _ZERO_WIDTH_JOINER and kinds[index] is _Kind.CONTENT
    if kinds[index] is _Kind.EXTEND or joined:
        return False
    base = bases[index - 1]
    if base < 0:
        return True
    if kinds[base] is _Kind.CONTENT and kinds[index] is _Kind.CONTENT:
        return not (_is_one_word(text[base], text[index]) or _is_signed(text, kinds, index))
    if _is_signed(text, kinds, index) or _is_inside_word(text, index - 1):
        return False
    return not _is_inside_word(text, index) or _is_possessive(text, index)


def _is_one_word(one: str, other: str) -> bool:
    """Tell whether two characters of content belong together wherever they meet."""
    if _is_flag(one) and _is_flag(other):
        return True
    if unicodedata.category(other) == "Lm" or other in _LAST_VOWELS or one in _FIRST_VOWELS:
        return True
    return _is_word(one) and _is_word(other) and not (_is_spaceless(one) or _is_spaceless(other))


def _is_word(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character) == "Pc"


def _is_flag(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _is_spaceless(character: str) -> bool:
    # An odd number of range ends up to here is inside a range; the last code point of a range counts too.
    place = bisect_right(_SPACELESS, ord(character))
    return place % 2 == 1 or (place > 0 and _SPACELESS[place - 1] == ord(character))


def _is_inside_word(text: str, index: int) -> bool:
    """Tell whether `text[index]` is punctuation inside a number or a contraction."""
    if not 0 < index < len(text) - 1:
        return False
    before, mark, behind = text[index - 1], text[index], text[index + 1]
    if mark in _BETWEEN_DIGITS and before.isdigit() and behind.isdigit():
        return True
    return mark in _APOSTROPHES and _is_word(before) and behind.isalpha()


def _is_possessive(text: str, index: int) -> bool:
    tail = text[index + 1 : index + 3]
    return text[index] in _APOSTROPHES and tail[:1] in ("s", "S") and not (tail[1:] and _is_word(tail[1]))


def _is_signed(text: str, kinds: Sequence[_Kind], index: int) -> bool:
    """Tell whether `text[index]` is a digit whose sign stands before it."""
    if not text[index].isdigit() or text[index - 1] not in _SIGNS:
        return False
    return index < 2 or kinds[index - 2] in (_Kind.SPACE, _Kind.OPENING)
