"""What is on disk: run directories, checkpoints, converted weights."""
