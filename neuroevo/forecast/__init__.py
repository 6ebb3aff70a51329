"""Forecasts of the time that a run, a search or a benchmark will take."""
