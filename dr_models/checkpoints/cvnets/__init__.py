"""What is particular to CVNets: its key names, its networks, its models."""
