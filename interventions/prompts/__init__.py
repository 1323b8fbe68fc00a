"""A question about an image as token ids with known positions, and its corrupted versions."""
