"""Embedders: waveform [B, T] -> embedding [B, D]."""
