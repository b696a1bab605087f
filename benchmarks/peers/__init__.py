"""What other systems reach on the rows of `benchmarks.quality`."""
