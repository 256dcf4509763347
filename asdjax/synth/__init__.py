"""Synthetic machines and corpora of their sound."""
