"""How shards are read: from where, how far ahead, and what is kept decoded."""
