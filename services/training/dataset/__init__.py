"""Labelled cases from a folder, the archive or a recipe; their splits, and what must not leak between them."""
