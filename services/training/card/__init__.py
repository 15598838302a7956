"""The model card: what a head is, how it was made and how far it can be trusted."""
