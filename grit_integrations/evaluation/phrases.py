"""Phrases that held-out sets and training data have in common."""

from __future__ import annotations

INSTRUCTIONS = {
    "question": "Given a question, retrieve passages that answer the question",
    "heading": "Given a heading, retrieve the passage below it",
    "glossary": "Given a term, retrieve its definition",
    "sentence": "Given a few words, retrieve the passage they come from",
}  # of queries, by what kind of query they are
NO_ANSWER = "The context does not say."  # the response where a passage does not hold the answer
SENTENCE_REQUESTS = (
    "Answer in a full sentence.",
    "Answer in one sentence.",
    "Reply with a complete sentence.",
    "Give the answer in a sentence.",
)  # behind a question that is to be answered by a sentence instead of by the words alone
