"""How a search goes on: the loop, and what it goes by; no files, no config, no network."""
