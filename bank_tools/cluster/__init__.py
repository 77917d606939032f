"""Embedding, calibration and scoring on many machines. ``ray_cluster`` and ``connect`` know Ray, nothing else does."""
