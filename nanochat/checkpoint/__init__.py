"""Checkpoints: the store, its manifests, and models loaded from them."""
