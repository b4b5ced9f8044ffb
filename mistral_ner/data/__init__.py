"""Sentences from files, the hub or the embedded sample, encoded once and memory-mapped by every process."""
