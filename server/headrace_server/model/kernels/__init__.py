"""Triton kernels for CUDA devices, each beside the plain torch function that says what it computes.

Only a CUDA device runs them; tests run them on the CPU through Triton's interpreter and compile them for sm_90.
"""
