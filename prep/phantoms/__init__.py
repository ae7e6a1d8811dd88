"""Synthetic archives in the official layouts, for the demo and the tests; nothing in them is a patient's."""
