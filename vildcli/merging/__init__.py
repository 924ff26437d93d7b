"""Labelling runs and people's annotations into one run or one annotation set (docs/merging.md)."""
