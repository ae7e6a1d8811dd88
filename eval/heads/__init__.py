"""What is put on an encoder: heads, and how they are trained."""
