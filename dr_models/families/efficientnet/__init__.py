"""CVNets' efficientnet: its parts."""
