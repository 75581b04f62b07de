"""Layouts: tilings of a history by tokens and gists, positions, drawing, compression."""
