"""How often the nearest cases are of the query's class, in the backbone's space and in the task's own."""
