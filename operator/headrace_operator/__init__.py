"""Keeps InferenceDeployments warm, and decides with reasons how many GPUs each of them needs."""
