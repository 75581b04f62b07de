"""Networks of the memory: GistNet, LensNet, the gist bank and what they are built from."""
