"""Backends, thresholds, metrics, intervals, tables: NumPy and scikit-learn, no jax."""
