"""edge-uad: visual anomaly inspection in a background thread, learned from good parts alone."""

__version__ = "0.1.0"
