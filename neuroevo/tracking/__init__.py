"""Trackers: where a run's figures are looked at beside those of others."""
