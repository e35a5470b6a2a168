"""Measuring a model on text it never saw, through the `GritLM` object that users run. Needs the extra `train`."""
