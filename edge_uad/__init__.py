"""edge-uad: visual anomaly inspection beside the line, learned from good parts alone."""

__version__ = "0.1.0"
