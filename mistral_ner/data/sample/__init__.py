"""The embedded data set, generated from patterns and names."""
