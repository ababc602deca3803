"""Scores and statistics of runs."""
