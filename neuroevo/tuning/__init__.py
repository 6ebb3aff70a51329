"""Many short runs: trials of hyperparameters, and the search of them."""
