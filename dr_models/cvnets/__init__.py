"""CVNets' published models: the catalog, and what each of their tensors is called elsewhere."""
