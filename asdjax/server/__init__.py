"""An HTTP server for a detector."""
