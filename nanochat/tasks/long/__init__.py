"""Long-context tasks: needles, variables, word counts, MQAR and their filler text."""
