"""Images to regions to labels: sources, plan, records, runs. `records`, `masks` need no torch."""
