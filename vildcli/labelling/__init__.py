"""Images to regions to labels: sources, plan, records, the run. `records` and `masks` need no torch."""
