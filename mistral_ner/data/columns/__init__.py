"""Files with a token a line: their lines, what their columns hold, and which of them are the words and the tags."""
