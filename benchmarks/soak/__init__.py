"""A soak: mixed honest and hostile traffic for a long time, and whether the guard comes out of it as it went in."""
