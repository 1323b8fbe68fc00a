"""How information travels to the answer: attention contributions, knockouts and what they predict."""
