"""The training loop and its checkpoints. Nothing here knows about Ray."""
