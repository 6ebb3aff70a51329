"""Slices of a population evaluated on other machines, by Ray.

`cluster` is the executor that a run is given. It talks to a process of its own (`bridge`), which alone knows Ray, so
that nothing that happens to a cluster happens to the run. A `worker` gets a run's parts once, and then slices.
"""
