"""What goes into a training: its data, checked, encoded and in batches."""
