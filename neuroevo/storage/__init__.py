"""The files that a run keeps: checkpoints, and those of its folder."""
