"""CVNets' published models: the catalog, and the names of their tensors in other libraries."""
