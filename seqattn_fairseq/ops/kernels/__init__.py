"""Triton kernels. Each file is imported by the operation it serves, when it is asked for."""
