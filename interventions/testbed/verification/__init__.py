"""People accept or correct constraints; how well they agree, and the test bed that comes of it."""
