"""Run tracking: metric sinks, readers of logged runs, metric bounds and alerts."""
