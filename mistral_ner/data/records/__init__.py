"""Records with a list of words and a list of tags: JSON lines, Parquet, data sets of the hub."""
