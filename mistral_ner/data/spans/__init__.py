"""Text with spans of characters, as annotation tools write it."""
