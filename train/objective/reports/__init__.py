"""What reports say beside their texts: facts of samples, and comparisons with earlier films."""
