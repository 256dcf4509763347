"""Device-side signal processing: pure functions of arrays."""
