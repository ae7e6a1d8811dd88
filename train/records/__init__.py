"""What a run shows of itself: its curves, its model card, and what trackers are told."""
