"""What there is to see of a run or a bench: pages, and the pictures in them."""
