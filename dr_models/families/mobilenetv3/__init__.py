"""CVNets' mobilenetv3: its parts."""
