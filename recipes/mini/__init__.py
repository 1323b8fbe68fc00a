"""How the embedded models are made: their pictures, facts, training and checks."""
