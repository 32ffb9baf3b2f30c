"""The network, its data, losses, schemes and metrics. PyTorch lives only here and in export/."""
