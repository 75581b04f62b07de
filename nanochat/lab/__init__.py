"""Speedrun lab: fair comparisons of base_train runs, and decisions by stated rules."""
