"""`python -m neuroevo` is the same program as `neuroevo`."""

from neuroevo.cli.main import main

main()
