"""What `grit demo` does: a corpus with questions, answered by a LangChain chain and a LlamaIndex engine, and judged."""
