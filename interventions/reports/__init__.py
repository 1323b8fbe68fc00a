"""What a notebook found: records, and executed notebooks as pages."""
