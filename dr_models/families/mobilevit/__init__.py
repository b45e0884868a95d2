"""CVNets' mobilevit: its parts."""
