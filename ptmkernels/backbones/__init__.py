"""What several models share: layers, embeddings, and the way a batch lies while the layers run."""
