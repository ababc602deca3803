"""Optimisers and schedules that fairseq lacks (importing registers them); a recipe's batch."""
