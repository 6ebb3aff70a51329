"""How individuals learn: gradient steps for a whole population at once."""
