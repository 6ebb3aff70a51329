"""`python -m neuroevo` is the same program as `neuroevo`."""

from neuroevo.cli import main

main()
