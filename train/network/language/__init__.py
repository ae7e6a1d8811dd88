"""What is kept of texts for training: embeddings, tokens, and an encoder whose end is trained."""
