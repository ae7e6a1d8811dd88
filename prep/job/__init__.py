"""How a set is prepared: from options to a job, chunks on workers, tables, and the card last."""
