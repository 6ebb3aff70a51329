"""Individuals learn by gradient steps, a whole population at once."""
