"""The search: one study on disk, and the engines that run its trials."""
