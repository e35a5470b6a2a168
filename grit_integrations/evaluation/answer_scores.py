"""How right an answer is: SQuAD's exact match and F1 of words, and whether it contains the gold answer."""

from __future__ import annotations

import re
import string
from collections import Counter

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower the case and drop ASCII punctuation, articles and extra space.

    >>> normalise(" The  Duke of Normandy's... ")
    'duke of normandys'
    """
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, gold: str) -> float:
    """Return 1.0 if the normalised texts are equal, else 0.0."""
    return float(normalise(answer) == normalise(gold))


def token_f1(answer: str, gold: str) -> float:
    """Return the F1 of normalised words, in 0..1; two texts without any word agree.

    >>> token_f1("the old river bank", "River")
    0.5
    """
    found, wanted = normalise(answer).split(), normalise(gold).split()
    if not found and not wanted:
        return 1.0
    shared = (Counter(found) & Counter(wanted)).total()
    return 2 * shared / (len(found) + len(wanted))


def contains(text: str, gold: str) -> float:
    """Return 1.0 if the gold answer stands in `text` word for word, both normalised, else 0.0.

    What a sentence is judged by: F1 counts its other words against it.

    >>> contains("It was built in 1790 by Ada Brook.", "1790")
    1.0
    """
    return float(f" {normalise(gold)} " in f" {normalise(text)} ")
