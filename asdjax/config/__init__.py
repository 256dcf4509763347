"""Every setting as frozen dataclasses, and the strict readers of YAML and values."""
