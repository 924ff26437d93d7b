"""Readers of annotation sets, transforms and sampling for training."""
