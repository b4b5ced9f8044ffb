"""Several trials in one forward pass: one base network, an adapter and a head for each trial."""
