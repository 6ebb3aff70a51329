"""Networks whose weights are genes: their backbones, cuts and heads, and files of weights."""
