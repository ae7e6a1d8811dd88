"""What a step computes: texts and views of a batch, targets, losses, the task that binds them."""
