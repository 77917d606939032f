"""Learns and measures, offline: builds banks with the very stages that will query them."""
