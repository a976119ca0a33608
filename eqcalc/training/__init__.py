"""Train a potential: configuration, loss, Lightning module, checkpoints."""
