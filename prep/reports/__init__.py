"""A free-text report becomes sections with their offsets, and sentences."""
