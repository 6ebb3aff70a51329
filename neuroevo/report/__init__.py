"""Pages of runs and benches, and the pictures in them."""
