"""Images: which pixels a file has, and data sets as images with keys."""
