"""The networks that Apple published, registered with timm as ``cvnets_*``."""
