"""CVNets' vit: its parts."""
