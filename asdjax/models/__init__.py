"""The networks: encoders (MultiResNet, BEATs), adapters, layers and poolings."""
