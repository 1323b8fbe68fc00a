"""Experiments over a test bed: parameters, conditions, the loop over questions, stored results."""
