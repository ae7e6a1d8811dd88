"""Looking at what is on disk: a run and what it came from, repairs, single samples."""
