"""One folder for each family: ``family.py`` states its parts, ``network.py`` is its network."""
