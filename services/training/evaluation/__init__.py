"""`similis evaluate TASK`: a head measured on cases that training never saw."""
