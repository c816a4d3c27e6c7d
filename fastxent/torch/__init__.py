from fastxent.torch.loss import cross_entropy
