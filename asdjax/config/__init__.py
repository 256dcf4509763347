"""All settings as frozen dataclasses, the registry, and the strict readers of YAML and values."""
