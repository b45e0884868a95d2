"""Side-by-side measurements: each prints ratios against a named peer of the same run."""
