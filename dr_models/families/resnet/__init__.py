"""CVNets' resnet: its parts."""
