"""People accept or correct constraints; agreement between them, and the test bed with their decisions."""
