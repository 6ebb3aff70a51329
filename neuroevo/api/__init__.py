"""The public door: searches from Python, their run folders, champions loaded."""
