"""What only a CPU needs: attention over pages without copying them, compiled when the model loads."""
