"""What people with a kubeconfig run: `headrace status`, `explain`, `pause`, ... and the same as a kubectl plugin."""
