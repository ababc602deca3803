"""Losses and what they log."""
