"""What makes a stored block valid: the key is a digest of everything that decides its keys and values."""

from __future__ import annotations

import hashlib
import unicodedata
from array import array
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from grit_integrations.errors import OptionError
from grit_integrations.prompts.plan import PlannedBlock

if TYPE_CHECKING:
    from grit_integrations.prompts.plan import Plan
    from grit_integrations.prompts.prompt_format import Pattern

FORMAT = "grit-kv-1"
_LONGEST_NAMESPACE = 256  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySpace:
    """What all blocks of one loaded model in one store have in common. Blocks of two spaces never meet.

    Attributes:
        model: fingerprint of what computes: every byte of weights and adapters, config (RoPE included), head.
        tokenizer: digest of everything that decides token ids.
        dtype: compute precision.
        device: kind of device, such as `"cpu AVX512"`: kernels of other kinds round differently.
        software: versions of the libraries that compute, for the same reason.
        attention: transformers' attention kernel.
        quantization: how the weights are quantised.
        precision: how blocks are stored.
        namespace: tenant; nobody reads another's blocks or learns that they exist.
    """

    model: str
    tokenizer: str
    dtype: str
    device: str
    software: str
    attention: str
    quantization: str = ""
    precision: str = "native"
    namespace: str = ""

    @property
    def hardware(self) -> str:
        """What a measured speed belongs to: this model, in this precision, on this kind of device."""
        return f"{self.model}/{self.dtype}/{self.device}"

    def root(self) -> bytes:
        """Return the digest that every key of this space starts from."""
        return _digest(b"root", *(part.encode() for part in (FORMAT, *astuple(self))))


def plan_keys(plan: Plan, space: KeySpace) -> list[str]:
    """Return the key of each block of `plan`, and of its suffix as the block that it is in a longer prompt."""
    root = space.root()
    chain, keys = child(root, "causal", ()), []
    for block in (*plan.blocks, PlannedBlock(plan.suffix)):
        setting = "" if block.doc_blocks is None else block.doc_blocks.name
        chain = child(chain, block.pattern, block.ids, drop=block.drop, document=block.document, setting=setting)
        alone = child(root, block.pattern, block.ids, document=block.document, setting=setting)
        keys.append((alone if block.by_itself else chain).hex())
    return keys


def child(
    parent: bytes,
    pattern: Pattern,
    token_ids: Sequence[int],
    *,
    drop: int = 0,
    document: bool = False,
    setting: str = "",
) -> bytes:
    """Return the digest of a block behind `parent`, the digest of everything before it.

    A block that is read by itself depends on nothing before it, so its own key is a child of the space's root; that of
    any other is a child of the chain. `drop` leading tokens were read with the block but are not part of the prompt; a
    `document` may be stored in another precision than a question in the same words; `setting` names how much of the
    block is read again where it stands.
    """
    kind = f"{pattern} {drop} {document}" + (f" {setting}" if setting else "")
    return _digest(parent, kind.encode(), array("q", token_ids).tobytes())


def check_namespace(namespace: str) -> None:
    """Refuse a namespace that cannot be stored.

    Raises:
        OptionError: not a text, longer than 256 characters, or with control characters or halves of surrogate pairs.
    """
    if not isinstance(namespace, str) or len(namespace) > _LONGEST_NAMESPACE or not _is_printable(namespace):
        shown = repr(namespace) if len(repr(namespace)) <= 80 else f"{repr(namespace)[:80]}…"
        raise OptionError(
            f"namespace={shown} cannot be stored. Give a text of up to {_LONGEST_NAMESPACE} characters, none of them a "
            "control character."
        )


def _is_printable(text: str) -> bool:
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in text)


def _digest(*parts: bytes) -> bytes:
    """Hash parts so that no two lists of parts are alike: each is preceded by its length."""
    digest = hashlib.blake2b(digest_size=20)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()
