"""Tasks that the chat stages train on and are evaluated by: one file per task, their registry, and mixtures of them."""
