"""``python -m edge_uad`` is ``edge-uad``."""

from edge_uad.cli import main

if __name__ == "__main__":
    main()
