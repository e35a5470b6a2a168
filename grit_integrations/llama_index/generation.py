"""One generation as LlamaIndex asks for it: a component's options with those of the call over them, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grit_integrations.errors import OptionError
from grit_integrations.options import Caching, Decoding, check_caching
from grit_integrations.prompts.formats import as_list

if TYPE_CHECKING:
    from grit_integrations.model import GenerationOptions, PromptOptions
    from grit_integrations.prompts.formats import Message, Messages
    from grit_integrations.prompts.requests import Prompt

_NAMES = [*Decoding.names(), "decoding", "documents", "caching", "query_instruction", "quotable"]


class PreparedDocuments(list[str]):
    """The documents of a call whose prompt has been parsed already; `GritLLM.prepare` makes them.

    The framework hands the arguments of a call to its tracers, which write them down as JSON: there these are texts.

    Attributes:
        prompt: what the model reads: messages, documents, and how they are read.
    """

    def __init__(self, prompt: Prompt) -> None:
        super().__init__(prompt.documents)
        self.prompt = prompt


@dataclass(frozen=True, slots=True)
class LLMCall:
    """What one call asks for, with every option settled."""

    documents: list[str]
    decoding: Decoding
    caching: Caching | None
    query_instruction: str | None
    quotable: Sequence[tuple[int, int]] | None
    prepared: Prompt | None
    known_documents: Sequence[str] = ()

    @classmethod
    def of(cls, overrides: Mapping[str, Any], decoding: Decoding, caching: str | None) -> LLMCall:
        """Settle the options of one call, put over those of a component.

        Raises:
            OptionError: an unknown option, or a value outside its range; nothing has been done yet.
        """
        for name in overrides:
            if name not in _NAMES:
                raise OptionError.unknown(name, _NAMES)
        single = {name: value for name, value in overrides.items() if name in Decoding.names()}
        whole, documents = overrides.get("decoding"), overrides.get("documents")
        mode = caching if overrides.get("caching") is None else overrides["caching"]
        return cls(
            documents=[] if documents is None else as_list(documents, "documents"),
            decoding=decoding.with_options(**single) if whole is None else Decoding.of(whole, single),
            caching=None if mode is None else check_caching(mode),
            query_instruction=overrides.get("query_instruction"),
            quotable=overrides.get("quotable"),
            prepared=documents.prompt if isinstance(documents, PreparedDocuments) else None,
        )

    def asked(self, turns: Sequence[Message]) -> tuple[Messages | Prompt, Sequence[str]]:
        """Return what the core is asked: the turns and the documents, or the prompt that holds them already."""
        return (turns, self.documents) if self.prepared is None else (self.prepared, ())

    @property
    def options(self) -> GenerationOptions:
        """The core's options."""
        return {"decoding": self.decoding} if self.prepared else {"decoding": self.decoding, **self.reading}

    @property
    def reading(self) -> PromptOptions:
        """The core's options of a prompt."""
        return {
            "caching": self.caching,
            "query_instruction": self.query_instruction,
            "quotable": self.quotable,
            "known_documents": self.known_documents,
        }
