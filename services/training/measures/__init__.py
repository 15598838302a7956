"""Figures of merit and their intervals over patients."""
