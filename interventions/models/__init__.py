"""Vision-language models: families, checkpoints, loading, locally or on a server."""
