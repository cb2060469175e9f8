"""Which part of the noise coordinate u is open, and when more of it opens."""
