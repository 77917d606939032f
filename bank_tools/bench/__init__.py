"""``edge-uad bench``: what a frame costs on this machine, stage by stage and as a whole line."""
