"""The training step and what it consists of."""
