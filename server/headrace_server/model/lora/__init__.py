"""Adapters beside the weights, chosen by each request (LoRA, Hu et al. 2021). docs/lora.md"""
