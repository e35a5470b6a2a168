"""A checkpoint found, checked, and read into memory."""
