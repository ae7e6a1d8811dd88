"""Stage 3: shards become a run: recipe, model, loss, views, loop, checkpoints."""
