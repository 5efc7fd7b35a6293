"""Measured scenarios: the demonstration, the speed figures, and the slow origin they stand on."""
