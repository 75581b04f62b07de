"""The speedrun lab: runs of base_train that are compared fairly, and decisions that are made by stated rules."""
