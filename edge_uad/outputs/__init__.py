"""Where verdicts go: subscribers, the disk, metrics."""
