"""Retrieval: which pictures and texts look for each other, and how near they are ranked."""
