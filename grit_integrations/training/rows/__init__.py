"""Rows of training data: files of them, their order, and the padded batches that they become."""
