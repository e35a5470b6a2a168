"""Texts and messages to a checked plan of token blocks. No torch."""
