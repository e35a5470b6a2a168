"""Keys and values: the cache of a running request. Knows tensors, not prompts or frameworks."""
