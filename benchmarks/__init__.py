"""What the documents say about speed and size, measured."""

import edge_uad  # noqa: F401  # switches telemetry off before any library is imported
