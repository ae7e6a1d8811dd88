"""Stage 4: an encoder and shards become predictions, metrics with intervals, and tables."""
