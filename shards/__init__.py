"""Stage 2: prepared sets become verified WebDataset tar shards; order, reading and verification of shards."""
