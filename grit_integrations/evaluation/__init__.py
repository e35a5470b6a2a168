"""Measuring a model on text it never saw, through the `GritLM` that users run. BM25 needs the extra `evaluate`."""
