"""Which words of a document may be quoted, and the search for the best of them."""
