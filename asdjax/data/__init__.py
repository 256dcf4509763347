"""Data sets and sound files: names, manifests, audio, batches; no jax."""
