"""Prompt segments to token ids, and back."""

from __future__ import annotations

import hashlib
import threading
import unicodedata
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grit_integrations.errors import ContextOverflowError, ModelLoadError, PromptError
from grit_integrations.prompts.formats import ZERO_WIDTH_SPACE, Segment, Special, neutralise
from grit_integrations.prompts.prompt_format import PromptFormat

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerFast

    from grit_integrations.prompts.formats import Text

_LONG = 256  # characters of a text whose ids are worth remembering
_MOST_CHARACTERS = 2_000_000  # of all texts remembered


@dataclass(frozen=True, slots=True)
class Spelling:
    """The tokens of a text, and behind how many of its characters each ends; `None` inside a character."""

    ids: tuple[int, ...]
    ends: tuple[int | None, ...]


class PromptTokenizer:
    """Turns prompt parts into token ids with one rule: every segment is tokenised on its own and the ids are joined.

    A SentencePiece-style tokenizer puts `▁` in front of any text that it tokenises alone. Text that continues a
    prompt has none, so it is tokenised behind a newline, which never merges with its neighbours in such vocabularies,
    and the newline's ids are cut off again. Text right behind a special token keeps its `▁`, as in training.

    Args:
        tokenizer: the checkpoint's.
        prompt_format: what the model's prompts look like; by default GritLM's.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, prompt_format: PromptFormat | None = None) -> None:
        self.hf = tokenizer
        self.format = prompt_format or PromptFormat()
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()  # a file may carry those that the tokenizer was last used with
        self._backend.no_padding()
        self.bos_ids = self._leading_ids()
        self.eos_id: int = _required_eos(tokenizer)
        added = tokenizer.added_tokens_decoder
        self._special_ids = frozenset(added) | frozenset(tokenizer.all_special_ids)
        special = frozenset(str(token) for token in added.values() if len(str(token).strip()) > 1)
        markers = self.format.control_words(special)
        self._control = markers | special
        self._anchor = self._continuation_anchor()
        self._marker_ids = [ids for marker in markers for ids in (self._fresh(marker), self._continued([marker])[0])]
        self._known = _KnownTexts()
        self._letter = self.encode_texts(["a"])[0]
        self._digest: str | None = None
        self._longest_piece = max(len(piece) for piece in tokenizer.get_vocab())
        self.mark_id = self._pooled_token()
        """The token whose state is a text's vector; `None` where other states are pooled."""
        self.behind_text = self._behind_text()
        """What stands behind the text of an embedding prompt."""
        self.end_ids = self._end_ids()
        """The tokens that end an answer: EOS, and what a chat template ends the assistant's turn with."""

    def encode(self, parts: Sequence[Text]) -> list[int]:
        """Return the joined ids of `parts`; content segments are neutralised first.

        Raises:
            PromptError: content still spells a control sequence after neutralising.
        """
        return [token for ids in self.encode_each(parts) for token in ids]

    def encode_each(self, parts: Sequence[Text]) -> list[list[int]]:
        """Return the ids of every part by itself, as they stand in the prompt. Otherwise like `encode`."""
        befores: list[Text | None] = [None, *parts[:-1]]
        return [self.encode_part(part, before) for part, before in zip(parts, befores, strict=False)]

    def encode_part(self, part: Text, before: Text | None) -> list[int]:
        """Return the ids of one part of a prompt, which depend on the part `before` it only by being its first or not.

        Raises:
            PromptError: content still spells a control sequence after neutralising.
        """
        if isinstance(part, Special):
            return list(self.bos_ids) if part is Special.BOS else [self.eos_id]
        fresh = part.fresh or before is None or isinstance(before, Special)
        if part.content and isinstance(before, Segment) and before.content and self._meets(before.text, part.text):
            return self._content([ZERO_WIDTH_SPACE + part.text], fresh=fresh)[0]
        return self._content([part.text], fresh=fresh)[0] if part.content else self._template(part, fresh=fresh)

    def token_cuts(self, part: Segment, ids: Sequence[int], before: Text | None) -> list[int]:
        """Return where `part.cuts` fall among its `ids`: as many tokens as certainly end before each cut."""
        fresh = part.fresh or before is None or isinstance(before, Special)
        clean = neutralise(part.text, self._control)
        lead = "" if fresh or not self._anchor else "\n"
        encoding = self._backend.encode(lead + clean, add_special_tokens=False)
        skipped = len(self._anchor) if lead else 0
        if list(encoding.ids[skipped:]) != list(ids):
            return []  # a text of look-alike characters that was normalised: it is read in one piece
        ends = [end - len(lead) for _, end in encoding.offsets[skipped:]]
        places = (len(neutralise(part.text[:cut], self._control)) for cut in part.cuts)
        return [bisect_right(ends, place) for place in places]

    def continued(self, text: str) -> list[int]:
        """Return the ids of template text that continues a prompt; it is not neutralised."""
        return self._continued([text])[0]

    def encode_texts(self, texts: Sequence[str], *, fresh: bool = False) -> list[list[int]]:
        """Return the ids of each text as the content that continues a prompt (no BOS, no `▁` in front).

        With `fresh` it stands right behind BOS.
        """
        return self._content(texts, fresh=fresh)

    def neutralised(self, text: str) -> str:
        """Return `text` as a prompt holds it: with a zero-width space inside every control sequence that it spells."""
        return neutralise(text, self._control)

    def spell(self, texts: Sequence[str]) -> list[Spelling]:
        """Return the tokens that spell each text where it continues a prompt, with the places where they end.

        The texts are taken as they are: neutralise them first. A normaliser may still make a token of `control` out
        of look-alike characters.
        """
        lead = "\n" if self._anchor else ""
        encoded = self._backend.encode_batch([lead + text for text in texts], add_special_tokens=False)
        return [_spelling(encoding, len(self._anchor), len(lead)) for encoding in encoded]

    @property
    def control_ids(self) -> frozenset[int]:
        """The tokens that no text may hold, such as BOS and EOS."""
        return self._special_ids

    def count(self, text: str) -> int:
        """Return how many tokens `text` takes inside a prompt."""
        return len(self.encode_texts([text])[0]) if text else 0

    def check_length(self, text: str, limit: int, where: str) -> None:
        """Raise `ContextOverflowError` if `text` cannot fit into `limit` tokens, without tokenising it."""
        least = -(-len(text) // self._longest_piece)
        if least > limit:
            raise ContextOverflowError(
                f"{where} has at least {least:,} tokens ({len(text):,} characters); {limit:,} fit into the model's "
                "window. Split it into passages."
            )

    def cut(self, text: str, limit: int) -> str:
        """Return the start of `text` that certainly holds its first `limit` tokens."""
        return text[: limit * self._longest_piece]

    def first_tokens(self, text: str, limit: int) -> str:
        """Return the longest start of `text`, as a prompt holds it, that has at most `limit` tokens.

        A text that fits is returned as it is.
        """
        if self.count(text) <= limit:
            return text
        clean = self.neutralised(self.cut(text, limit))
        ends = self.spell([clean])[0].ends[:limit]
        return clean[: max((end for end in ends if end is not None), default=0)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids` without special tokens."""
        return str(self.hf.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def piece(self, token: int) -> str:
        """Return the text of one token inside a text, with its leading space."""
        before = self._backend.decode(self._letter)
        return str(self._backend.decode([*self._letter, token], skip_special_tokens=False)[len(before) :])

    def digest(self) -> str:
        """Return a digest of everything that decides token ids."""
        if self._digest is None:  # the whole vocabulary is written out for it
            self._digest = self._compute_digest()
        return self._digest

    def _compute_digest(self) -> str:
        decides = self._backend.to_str() + self.format.turns.source
        return hashlib.blake2b(decides.encode(), digest_size=16).hexdigest()

    def _fresh(self, text: str) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def _continued(self, texts: Sequence[str]) -> list[list[int]]:
        if not self._anchor:
            return [list(e.ids) for e in self._backend.encode_batch(list(texts), add_special_tokens=False)]
        anchored = self._backend.encode_batch(["\n" + text for text in texts], add_special_tokens=False)
        return [list(encoding.ids[len(self._anchor) :]) for encoding in anchored]

    def _meets(self, before: str, after: str) -> bool:
        """Whether two texts that stand side by side spell a control sequence across their seam."""
        longest = max(map(len, self._control)) - 1
        tail, head = before[-longest:], after[:longest]
        return any((at := (tail + head).find(word)) >= 0 and at < len(tail) < at + len(word) for word in self._control)

    def _template(self, segment: Segment, *, fresh: bool) -> list[int]:
        return self._fresh(segment.text) if fresh else self._continued([segment.text])[0]

    def _content(self, texts: Sequence[str], *, fresh: bool) -> list[list[int]]:
        known = [self._known.get((text, fresh)) for text in texts]
        new = [text for text, ids in zip(texts, known, strict=True) if ids is None]
        made = iter(self._new_content(new, fresh=fresh) if new else ())
        encoded = [list(next(made) if ids is None else ids) for ids in known]
        for text, ids in zip(texts, encoded, strict=True):
            self._known.put((text, fresh), ids)
        return encoded

    def _new_content(self, texts: Sequence[str], *, fresh: bool) -> list[list[int]]:
        clean = [neutralise(text, self._control) for text in texts]
        encoded = [self._fresh(text) for text in clean] if fresh else self._continued(clean)
        for index, ids in enumerate(encoded):
            if self._has_control(ids):
                encoded[index] = self._normalised_content(clean[index], fresh=fresh)
        return encoded

    def _normalised_content(self, text: str, *, fresh: bool) -> list[int]:
        # The tokenizer's normaliser made a control sequence of look-alike characters: normalise first, then neutralise.
        clean = neutralise(unicodedata.normalize("NFKC", text), self._control)
        ids = self._fresh(clean) if fresh else self._continued([clean])[0]
        if self._has_control(ids):
            raise PromptError(
                "A text spells a control sequence of this tokenizer in a way that cannot be neutralised. "
                f"Remove it from the text. Control sequences are {', '.join(sorted(self._control)[:8])}."
            )
        return ids

    def _has_control(self, ids: Sequence[int]) -> bool:
        if not self._special_ids.isdisjoint(ids):
            return True
        return any(_contains(ids, marker) for marker in self._marker_ids)

    def _pooled_token(self) -> int | None:
        token = self.format.pooled
        if not token:
            return None
        found = self.hf.get_vocab().get(token)
        if found is None:
            raise ModelLoadError(
                f"pooling='token:{token}' is the state at {token!r}, which is no token of this tokenizer. Name one, or "
                "add it to the tokenizer that the model was trained with."
            )
        return int(found)

    def _end_ids(self) -> frozenset[int]:
        behind = self.encode(self.format.turns.lead("assistant", "user"))[:1]
        return frozenset([self.eos_id, *self._special_ids.intersection(behind)])

    def _behind_text(self) -> tuple[int, ...]:
        own = () if self.mark_id is None or self.format.marks_header else (self.mark_id,)
        return (*([self.eos_id] if self.format.append_eos else []), *own)

    def _leading_ids(self) -> list[int]:
        plain = self._fresh("a")
        full = list(self._backend.encode("a", add_special_tokens=True).ids)
        if full[len(full) - len(plain) :] != plain:
            raise ModelLoadError(
                f"The tokenizer ends a text with extra ids ({full} for 'a', plain {plain}); GRIT prompts have none. "
                "Use the tokenizer the model was trained with (add_eos_token=False)."
            )
        return full[: len(full) - len(plain)]

    def _continuation_anchor(self) -> list[int]:
        newline = self._fresh("\n")
        if self._fresh("\na") == newline + self._fresh("a"):
            return []
        if self._fresh("\na")[: len(newline)] != newline:
            raise ModelLoadError(
                "The tokenizer merges a newline with the letter behind it, so prompt segments have no stable ids. "
                "GRIT models need a tokenizer in which a newline stands alone (Mistral, Llama, Qwen do)."
            )
        return newline


def _spelling(encoding: Encoding, skipped: int, lead: int) -> Spelling:
    spans = [(max(0, start - lead), end - lead) for start, end in encoding.offsets[skipped:]]
    # Tokens that share the bytes of one character have that character's span, all of them.
    ends = [
        end if after is None or after[0] >= end else None
        for (_, end), after in zip(spans, [*spans[1:], None], strict=True)
    ]
    return Spelling(tuple(encoding.ids[skipped:]), tuple(ends))


class _KnownTexts:
    """Token ids of the long texts seen last: a document that is asked about again need not be tokenised again."""

    def __init__(self) -> None:
        self._ids: OrderedDict[tuple[str, bool], tuple[int, ...]] = OrderedDict()
        self._characters = 0
        self._lock = threading.Lock()

    def get(self, text: tuple[str, bool]) -> tuple[int, ...] | None:
        if len(text[0]) < _LONG:
            return None
        with self._lock:
            ids = self._ids.get(text)
            if ids is not None:
                self._ids.move_to_end(text)
            return ids

    def put(self, text: tuple[str, bool], ids: Sequence[int]) -> None:
        length = len(text[0])
        if not _LONG <= length <= _MOST_CHARACTERS:
            return
        with self._lock:
            if text not in self._ids:
                self._ids[text] = tuple(ids)
                self._characters += length
            while self._characters > _MOST_CHARACTERS:
                (old, _), _ = self._ids.popitem(last=False)
                self._characters -= len(old)


def _contains(ids: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether `wanted` occurs in `ids` as a contiguous run."""
    hay, needle = array("I", ids).tobytes(), array("I", wanted).tobytes()
    at = hay.find(needle)
    while at >= 0:
        if at % array("I").itemsize == 0:
            return True
        at = hay.find(needle, at + 1)
    return False


def _required_eos(tokenizer: PreTrainedTokenizerFast) -> int:
    if tokenizer.eos_token_id is None:
        raise ModelLoadError(
            "The tokenizer has no EOS token, so generation could not end. Set eos_token in its config."
        )
    return int(tokenizer.eos_token_id)
