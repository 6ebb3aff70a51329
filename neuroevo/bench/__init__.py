"""Arms side by side at equal budget."""
