"""Records to the formats of other tools. No torch."""
