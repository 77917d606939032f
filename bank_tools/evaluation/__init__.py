"""Tasks, ablations and clustering on labelled datasets."""
