"""One training: data to batches, steps, reports, checkpoints, scores."""
