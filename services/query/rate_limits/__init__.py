"""How often a client may ask, and how often it may show credentials that are not good."""
