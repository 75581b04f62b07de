"""The GPT: attention, normalisation, cross-entropy."""
