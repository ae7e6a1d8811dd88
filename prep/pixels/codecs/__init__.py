"""Compressed pixels: what a stream says of itself, and the decoder that each syntax gets."""
