"""Where the pictures and facts of the embedded test bed come from."""
