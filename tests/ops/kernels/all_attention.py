"""What test_attention_compilation compiles: attention in every method, shape and dtype."""

from tests.ops.kernels.specimens_attention import EVERY as SPECIMENS

__all__ = ["SPECIMENS"]
