"""What a run, a search or a benchmark will take, before any of it is done."""
