"""GritRAGMiddleware: retrieval for LangChain's agents that hands documents to the model instead of quoting them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, NotRequired

from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage
from langchain_core.retrievers import BaseRetriever

from grit_integrations.errors import MissingExtraError, OptionError
from grit_integrations.langchain.chat import ChatGrit
from grit_integrations.langchain.retriever import GritRetriever

try:
    from langchain.agents.middleware.types import (
        AgentMiddleware,
        AgentState,
        ModelRequest,
        ModelResponse,
        OmitFromInput,
        PrivateStateAttr,
    )
except ModuleNotFoundError as error:
    if error.name != "langchain":  # a broken install shows its true cause
        raise
    raise MissingExtraError("langchain", "agents") from error


class RetrievalState(AgentState[Any]):
    """What the middleware adds to an agent's state.

    Attributes:
        retrieved_documents: the documents of the last question; part of the agent's result.
        retrieved_for: which question they were retrieved for.
    """

    retrieved_documents: NotRequired[Annotated[list[Document], OmitFromInput]]
    retrieved_for: NotRequired[Annotated[str, PrivateStateAttr]]


class GritRAGMiddleware(AgentMiddleware[RetrievalState, Any, Any]):
    """Retrieve once for each user message of an agent, and give the documents to `ChatGrit`.

    They reach the model as `documents=`, in the words of the GRIT paper and with their KV cache, and stay out of the
    messages. The agent's result holds them as `"retrieved_documents"`.

    Args:
        retriever: whom to ask, best a `GritRetriever` of the chat model's `GritLM`.
        **options: arguments of `retriever.invoke`, such as `k`.

    Example:
        >>> from langchain.agents import create_agent
        >>> from langchain_core.documents import Document
        >>> from grit_integrations.langchain import ChatGrit, GritRAGMiddleware, GritRetriever
        >>> heart = Document("The heart is a muscle that pumps blood through the vessels of the body. " * 4)
        >>> retriever = GritRetriever.from_documents([heart])
        >>> chat = ChatGrit(model=retriever.grit, max_tokens=4)
        >>> agent = create_agent(chat, tools=[], middleware=[GritRAGMiddleware(retriever)])
        >>> result = agent.invoke({"messages": ["What pumps blood?"]})
        >>> result["retrieved_documents"][0].page_content == heart.page_content
        True
        >>> result["messages"][-1].text == chat.invoke("What pumps blood?", documents=[heart]).text
        True

    Raises:
        OptionError: no retriever, an option that a `GritRetriever` does not take, or an agent whose model is not a
            `ChatGrit`.
    """

    state_schema = RetrievalState

    def __init__(self, retriever: BaseRetriever, **options: Any) -> None:
        super().__init__()
        if not isinstance(retriever, BaseRetriever):
            kind = type(retriever).__name__
            raise OptionError(f"retriever is a {kind}. Give a retriever, such as GritRetriever(vectorstore=...).")
        if isinstance(retriever, GritRetriever):
            retriever.check_options(**options)
        self.tools = []
        self.retriever = retriever
        self.options = options

    def before_model(self, state: RetrievalState, runtime: Any) -> dict[str, Any] | None:
        """Retrieve for the last user message, unless that has been done."""
        question = _new_question(state)
        if question is None:
            return None
        return _update(question, self.retriever.invoke(question.text, **self.options))

    async def abefore_model(self, state: RetrievalState, runtime: Any) -> dict[str, Any] | None:
        """Retrieve without blocking the event loop."""
        question = _new_question(state)
        if question is None:
            return None
        return _update(question, await self.retriever.ainvoke(question.text, **self.options))

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Give the documents to the model."""
        return handler(_with_documents(request))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Give the documents to the model."""
        return await handler(_with_documents(request))


def _new_question(state: Mapping[str, Any]) -> HumanMessage | None:
    """Return the last user message if it has text and nothing was retrieved for it."""
    asked = [message for message in state["messages"] if isinstance(message, HumanMessage) and message.text.strip()]
    return asked[-1] if asked and state.get("retrieved_for") != _name(asked[-1]) else None


def _name(question: HumanMessage) -> str:
    return f"{question.id}:{question.text}"


def _update(question: HumanMessage, documents: Sequence[Document]) -> dict[str, Any]:
    return {"retrieved_documents": list(documents), "retrieved_for": _name(question)}


def _with_documents(request: ModelRequest[Any]) -> ModelRequest[Any]:
    if isinstance(request.model, BaseChatModel) and not isinstance(request.model, ChatGrit):
        raise OptionError(
            f"The agent's model is a {type(request.model).__name__}, and documents can only be given to a ChatGrit. "
            "Use one, or put the documents into the messages."
        )
    state: Mapping[str, Any] = request.state
    documents = [*request.model_settings.get("documents", ()), *state.get("retrieved_documents", ())]
    return request.override(model_settings={**request.model_settings, "documents": documents})
