"""Pictures of slices and outlines; needs torch, unlike the writers."""
