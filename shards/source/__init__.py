"""What shards are made from."""
