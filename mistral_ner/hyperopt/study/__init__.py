"""The study on disk: how trials are proposed, recorded and ended, and what is shown of them while they run."""
