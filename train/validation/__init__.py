"""Validation of a run: loss and retrieval on the held-out split, and what follows from them."""
