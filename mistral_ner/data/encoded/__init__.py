"""Sentences as model inputs: words to subwords, long sentences to windows, on disk and memory-mapped."""
