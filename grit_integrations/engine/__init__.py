"""The one thread that runs a set of weights: prompts read, texts embedded, tokens decoded, many callers at once."""
