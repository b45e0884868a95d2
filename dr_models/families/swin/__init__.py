"""CVNets' swin: its parts."""
