"""The loss behind a linear layer, a chunk of rows of logits at a time."""
