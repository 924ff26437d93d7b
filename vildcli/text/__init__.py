"""How to say it: prompt templates, text encoders, the bank of text embeddings and its cache."""
