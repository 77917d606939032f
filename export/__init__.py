"""Weights to model files, offline: the only place that imports torch."""
