"""Measurements of similarity search."""
