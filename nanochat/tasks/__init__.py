"""What the chat stages train on and are measured by: one file per task, mixtures of them, and their names."""
