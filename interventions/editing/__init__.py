"""How to change what a model knows: MultEdit, its baselines, and how edits are evaluated."""
