"""DocBlocks: how documents are read in `doc` mode, so that models can answer from blocks without being trained to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from grit_integrations.errors import OptionError
from grit_integrations.option_values import check, is_between, is_count
from grit_integrations.options import MODES

if TYPE_CHECKING:
    from grit_integrations.options import Caching

BlockPattern = Literal["bidirectional", "causal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DocBlocks:
    """How documents are read in the caching mode `"doc"`; in the other modes it plays no part.

    A document's block is read by itself, so it knows nothing of the documents before it. A model that was trained to
    answer from such blocks has learnt to live with that. For any other, some tokens of each block that does not stand
    first are read again in their place, behind everything before it. `docs/caching.md` draws it.

    Attributes:
        pattern: `"bidirectional"` is the embedding pass, which `embed_documents` keeps; of a checkpoint that embeds
            causally it is that. `"causal"` reads a document as the prompt of `caching="off"` has it, which needs no
            training at all; `cache_documents` keeps it.
        recompute_first: this many tokens at the beginning of each such block are read again (EPIC, arXiv 2410.15332).
        recompute_share: this share of each such block is read again, from 0 to 1: the tokens whose values change most
            in the second layer (CacheBlend, arXiv 2405.16444).

    Raises:
        OptionError: a value outside its range, or tokens that are chosen in both ways.

    Example:
        >>> DocBlocks(pattern="causal", recompute_share=0.15).recomputed(200)
        30
    """

    pattern: BlockPattern = "bidirectional"
    recompute_first: int = 0
    recompute_share: float = 0.0

    def __post_init__(self) -> None:
        known = " or ".join(repr(pattern) for pattern in get_args(BlockPattern))
        check(self.pattern in get_args(BlockPattern), "pattern", self.pattern, known)
        check(is_count(self.recompute_first, 0), "recompute_first", self.recompute_first, "a whole number from 0 up")
        share = self.recompute_share
        check(is_between(share, 0, 1), "recompute_share", share, "a number from 0 (none) to 1 (all)")
        object.__setattr__(self, "recompute_share", float(share))  # 1 and 1.0 are one setting, also as a key
        if self.recompute_first and self.recompute_share:
            raise OptionError(
                f"recompute_first={self.recompute_first} and recompute_share={share} are two ways to choose what is "
                "read again. Give one of them."
            )

    @classmethod
    def of(cls, value: DocBlocks | Mapping[str, Any] | None) -> DocBlocks:
        """Return the setting that is given as a value or as its plain data; by default the default.

        Raises:
            OptionError: something else, an unknown name, or a value outside its range.
        """
        if isinstance(value, Mapping):
            known = [each.name for each in fields(cls)]
            for name in value:
                if name not in known:
                    raise OptionError.unknown(name, known)
            return cls(**value)
        return PLAIN if value is None else value

    @property
    def name(self) -> str:
        """What tells this setting from any other, in the keys of blocks; that of the default is empty."""
        return "" if self == PLAIN else f"{self.pattern} {self.recompute_first} {self.recompute_share}"

    def under(self, caching: Caching) -> DocBlocks:
        """Return what is in force in a mode: outside `"doc"`, the default."""
        return self if MODES[caching].embeds_in_place else PLAIN

    def embeds(self, caching: Caching) -> bool:
        """Whether a document's block is that of its embedding pass in a mode."""
        return MODES[caching].embeds_documents and self.under(caching).pattern == "bidirectional"

    def recomputed(self, tokens: int) -> int:
        """Return how many tokens of a block are read again that has so many and does not stand first."""
        share = math.ceil(round(self.recompute_share * tokens, 6))  # .07 of 100 is a little more than 7 as a float
        return min(tokens, max(self.recompute_first, share))

    def to_dict(self) -> dict[str, Any]:
        """Return the setting as plain data."""
        return asdict(self)


PLAIN = DocBlocks()  # blocks of the embedding pass, none of them read again
