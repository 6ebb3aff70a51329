"""One run from its config to a scored champion: a client of the engine."""
