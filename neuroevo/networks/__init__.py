"""What genes are the weights of: networks, cut and headed, and files of weights."""
