"""Training: the trainer, objective, optimizer, schedules, rollouts."""
