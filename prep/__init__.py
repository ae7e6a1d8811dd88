"""Stage 1: an archive as downloaded becomes a prepared set (pictures, texts, manifest, rejects)."""
