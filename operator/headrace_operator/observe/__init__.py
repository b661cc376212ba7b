"""Edges that read: the cluster and the pods become values."""
