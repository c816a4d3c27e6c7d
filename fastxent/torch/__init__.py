from fastxent.torch.loss import cross_entropy
from fastxent.torch.binary import binary_cross_entropy_with_logits
from fastxent.torch.softmax import softmax, log_softmax
