"""Vector search behind one port: a Qdrant server, the embedded Qdrant Edge engine, or an in-memory fake."""
