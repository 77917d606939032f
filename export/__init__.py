"""Weights to model files, offline: the only place that imports torch."""

import edge_uad  # noqa: F401  # switches telemetry off before any library is imported
