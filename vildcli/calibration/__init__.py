"""Scores that mean something: calibrated against truth, thresholds for a target precision."""
