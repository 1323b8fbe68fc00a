"""How information travels to the answer: attention contributions, knock-outs and what they predict."""
