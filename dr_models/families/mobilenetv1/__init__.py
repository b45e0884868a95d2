"""CVNets' mobilenetv1: its parts."""
