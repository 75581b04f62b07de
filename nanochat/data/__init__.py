"""Data: text sources, downloads, tokenizer, token cache, packing and loaders."""
