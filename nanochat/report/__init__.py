"""Report of a run: its sections, figures, checks and pages."""
