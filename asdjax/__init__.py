"""Anomalous sound detection for machine condition monitoring, native to accelerators."""

from asdjax._version import __version__

__all__ = ["__version__"]
