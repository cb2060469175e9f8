"""What a run leaves on disk: its config and identity, checkpoints, and the lock."""
