"""What is decided by logits: offsets and scales of classes, fitted across folds."""
