"""The cosine residual codebook: item embeddings as a few bytes."""
