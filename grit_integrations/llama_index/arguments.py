"""Arguments of adapters, checked when they are given: what is no such thing is refused by name before any work."""

from __future__ import annotations

from types import NoneType

from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.callbacks import CallbackManager

from grit_integrations.errors import OptionError


def check_kind(name: str, value: object, *kinds: type) -> None:
    """Refuse an argument that is none of `kinds`.

    Raises:
        OptionError: it names the argument, and what may be given.
    """
    if not isinstance(value, kinds):
        wanted = " or ".join("None" if kind is NoneType else kind.__name__ for kind in kinds)
        raise OptionError(f"{name}={value!r} is not possible. It must be of the type {wanted}.")


def check_model_class(name: str, value: object) -> None:
    """Refuse what is no pydantic class; `None` passes, since it means plain text.

    Raises:
        OptionError: it names the argument.
    """
    if value is not None and not (isinstance(value, type) and issubclass(value, BaseModel)):
        raise OptionError(f"{name}={value!r} is not possible. It must be a subclass of pydantic's BaseModel, or None.")


def check_count(name: str, value: object) -> None:
    """Refuse what is no whole number from 1 up; `None` passes, since it means the default.

    Raises:
        OptionError: it names the argument.
    """
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return
    raise OptionError(f"{name}={value!r} is not possible. Give a whole number from 1 up, or None for the default.")


def check_limiter(value: object) -> None:
    """Refuse a throttle that cannot be waited for; `None` is none.

    Raises:
        OptionError: neither `None` nor a rate limiter.
    """
    # The framework's own base class of them came after llama-index-core 0.14.5.
    if value is not None and not all(hasattr(value, method) for method in ("acquire", "async_acquire")):
        raise OptionError(
            f"rate_limiter={value!r} is not possible. Give one of llama_index.core.rate_limiter, or None."
        )


def callbacks(value: CallbackManager | None) -> CallbackManager:
    """Return the framework's callbacks; without any, none are called.

    Raises:
        OptionError: something else.
    """
    check_kind("callback_manager", value, CallbackManager, NoneType)
    return CallbackManager([]) if value is None else value
