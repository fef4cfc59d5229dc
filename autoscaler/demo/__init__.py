"""The demonstration: an emulated cluster to scale, and the pieces that show the loop at work on it."""
