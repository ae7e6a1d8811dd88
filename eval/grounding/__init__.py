"""Which places of a film lie near to what a prompt says."""
