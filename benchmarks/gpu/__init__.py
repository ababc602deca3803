"""One script for one GPU: is it right, and how fast is it.

    python -m benchmarks.gpu                       # the first CUDA device, up to eight minutes
    python -m benchmarks.gpu --device cpu --tiny   # the same code in seconds, kernels interpreted

Results are written as they come, to ``benchmarks/results/<name of the GPU>.json`` and ``.csv``.
"""
