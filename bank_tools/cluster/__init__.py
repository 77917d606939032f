"""Embedding, calibration and scoring on many machines; ``ray_cluster`` alone knows Ray, and imports it when asked."""
