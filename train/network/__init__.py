"""What is trained and what is frozen: backbone, branches, text encoder, and the model's folder."""
