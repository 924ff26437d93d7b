"""What to look for: categories, their file formats, names, base and novel. No torch."""
