"""What test_compilation compiles of the draws of dropout."""

import torch

from seqattn_fairseq.ops.kernels.dropout import fresh_seed
from tests.ops.kernels.test_dropout import draw

SPECIMENS = {"dropout": lambda: draw(fresh_seed(torch.device("cpu")), 0.3)}
