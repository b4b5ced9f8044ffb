"""The composed config: its schema, its check, and Hydra's errors in this project's words."""
