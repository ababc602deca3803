"""Analysis of trained models and of their translations: what lies in ``RUN/analysis/SUBSET``."""
