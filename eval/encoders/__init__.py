"""What is evaluated: our runs, weights from elsewhere, controls, and their cached features."""
