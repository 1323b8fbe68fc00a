"""Records of what a notebook measured, and executed notebooks as HTML pages."""
