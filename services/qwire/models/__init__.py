"""Models: which there are, where their weights come from, and the proof that they arrived whole."""
