"""Training with a memory: the controller, variants, losses and teachers."""
