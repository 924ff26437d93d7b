"""The frozen vision-language model: crops, embeddings of crops, their cache."""
