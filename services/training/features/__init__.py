"""Cases to frozen features, by the path that files take in the embedder."""
