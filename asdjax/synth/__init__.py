"""Synthetic machine sounds and corpora."""
