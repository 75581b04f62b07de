"""Inference: KV caches, sampling, the engine, continuous batching, tools and replies."""
