"""Building blocks that the architectures share: one small idea per module."""
