"""One file per command: the pipelines, which alone join files and arrays."""
