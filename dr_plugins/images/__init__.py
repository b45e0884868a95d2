"""Images: decoding files to pixels, and datasets as images with keys."""
