"""CVNets' mobilenetv2: its parts."""
