"""The memory: gists, working contexts and the focus between them. It may import `nanochat`, never the other way round."""
