"""Cases to frozen features, by the path that files take in the embedder; and trivial features beside them."""
