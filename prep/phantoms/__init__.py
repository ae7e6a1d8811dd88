"""Synthetic archives in the official layouts; nothing in them is a patient's."""
