"""What is kept: checkpoints, and a run's folder."""
