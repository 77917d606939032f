"""Image and pixel metrics."""
