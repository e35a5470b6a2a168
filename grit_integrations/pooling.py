"""How token states become one vector: the methods, and the check of a method's name. No torch"""

from __future__ import annotations

from typing import Literal, get_args

from grit_integrations.errors import OptionError

Pooling = Literal["mean", "weightedmean", "lasttoken", "cls"]  # of any model; others name a token of their own
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
_AT = "token:"


def is_pooling(value: object) -> bool:
    """Return whether `value` names a method: one of `POOLINGS`, or `token:` and a token of the tokenizer.

    >>> is_pooling("mean"), is_pooling("token:<|embed|>"), is_pooling("token:"), is_pooling("max")
    (True, True, False, False)
    """
    return value in POOLINGS or (isinstance(value, str) and bool(pooled_token(value)))


def check_pooling(value: object) -> str:
    """Return `value` if it names a method.

    Raises:
        OptionError: it does not.
    """
    if isinstance(value, str) and is_pooling(value):
        return value
    raise OptionError(
        f"pooling={value!r} is unknown. Use one of {', '.join(POOLINGS)}, or token:TOKEN where the checkpoint says so."
    )


def pooled_token(pooling: str) -> str:
    """Return the token whose state is the vector; empty for the methods that need none.

    >>> pooled_token("token:<|embed|>"), pooled_token("mean")
    ('<|embed|>', '')
    """
    return pooling.removeprefix(_AT) if pooling.startswith(_AT) else ""
