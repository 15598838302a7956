"""Training: brain phantoms, the brain-mr head and its model card. Research use only."""
