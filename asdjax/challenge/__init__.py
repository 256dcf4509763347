"""The challenge's submission: packages, their verification, meta.yaml; no jax."""
