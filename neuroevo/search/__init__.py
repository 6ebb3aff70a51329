"""Who proposes: algorithms, their operators, and the cube of hyperparameters."""
