"""Learns and measures, offline: builds banks with the very stages that will query them."""

import edge_uad  # noqa: F401  # switches telemetry off before any library is imported
