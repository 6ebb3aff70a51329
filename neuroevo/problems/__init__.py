"""What a genome is worth: metrics, their evaluation in slices, and functions of one's own."""
