"""A language model marks constraints and proposes what may replace them; people verify it (paper, appendix B)."""
