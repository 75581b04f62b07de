"""Networks of the memory: GistNet, LensNet, the gist bank and their parts."""
