"""What a run starts from: a tokenizer, and weights that are loaded, random, or set by hand."""
