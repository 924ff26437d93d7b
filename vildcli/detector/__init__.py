"""The student: backbone, proposals, heads, losses, scoring, post-processing."""
