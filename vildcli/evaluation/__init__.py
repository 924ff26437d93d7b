"""Average precision of predictions against an annotation set."""
