"""Several processes train one model: their group, their shares, and batches in parts."""
