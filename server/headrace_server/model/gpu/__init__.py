"""What a CUDA device computes with: the Triton kernels of model/kernels, and torch's own where it has better ones."""
