"""What the blending notebooks share: predictions of several models at the same targets, the exact fit, and readers."""
