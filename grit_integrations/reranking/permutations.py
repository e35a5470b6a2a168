"""Orders of passages as text, such as `[2] > [1] > [3]`, and the windows in which a long list is put in order.

Both are RankGPT's (Sun et al., arXiv 2304.09542). Here only what stands in brackets is an identifier, so that "I cannot
rank these 3 passages" moves nothing, and the windows reach the first passage however many there are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from grit_integrations.errors import OptionError, PromptError
from grit_integrations.reranking.order_constraint import Permutation

if TYPE_CHECKING:
    from grit_integrations.prompts.tokenizer import PromptTokenizer

_FIRST, _LATER = "[{}]", " > [{}]"
_IDENTIFIER = re.compile(r"\[\s*([0-9]{1,9})\s*\]")  # not \d, which is a digit of any script


def read_order(text: str, count: int) -> list[int]:
    """Return the order of `count` passages that a model's `text` names, as places from 0; always a permutation.

    Numbers that come again or that no passage has are ignored; passages that are not named follow in their old order.

    >>> read_order("[2] > [1] > [2] > [7]", 3)
    [1, 0, 2]
    >>> read_order("I cannot rank these 3 passages.", 3)
    [0, 1, 2]
    """
    numbers = (int(number) for number in _IDENTIFIER.findall(text))
    named = dict.fromkeys(number - 1 for number in numbers if 1 <= number <= count)
    return [*named, *(place for place in range(count) if place not in named)]


def listing(tokenizer: PromptTokenizer, count: int) -> Permutation:
    """Return the tokens of all orders of `count` passages that a generation can be held to.

    Each identifier is spelled by itself. Tokenizers that keep brackets, digits and spaces apart, as those of Mistral,
    Llama, Qwen and grit-mini do, spell a whole order in the same tokens.

    Raises:
        OptionError: the tokenizer cannot spell identifiers, or does not tell them apart.
    """
    numbers = range(1, count + 1)
    try:
        spelled = tokenizer.encode_texts([form.format(number) for form in (_FIRST, _LATER) for number in numbers])
    except PromptError as error:
        raise OptionError(
            "This model's tokenizer cannot spell identifiers such as '[1]'. Rerank with method=\"pointwise\" or "
            '"embedding".'
        ) from error
    ids = [tuple(each) for each in spelled]
    return Permutation(tuple(ids[:count]), tuple(ids[count:]))


def windows(count: int, *, size: int, step: int) -> Iterator[tuple[int, int]]:
    """Yield where the windows over `count` passages start and stop, from the last to the first.

    Neighbouring windows share `size - step` passages: so many of the best of one take part in the next.

    >>> list(windows(25, size=20, step=10))
    [(5, 25), (0, 15)]
    """
    stop = count
    while stop > 0:
        start = max(0, stop - size)
        yield start, stop
        stop = stop - step if start else 0
