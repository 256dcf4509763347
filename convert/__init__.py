"""Converters between asdjax and PyTorch checkpoints, without PyTorch."""
