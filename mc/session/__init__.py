"""Sessions: trees in RAM and on disk, the focus, files and the store."""
