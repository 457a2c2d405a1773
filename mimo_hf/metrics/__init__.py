"""Measures of what the models and trainers do."""
