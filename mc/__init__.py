"""MegaContext, the memory: its networks, training, sessions and evaluation. May import `nanochat`, never the other way round."""
