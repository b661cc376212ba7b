"""Other autoscalers, as they are published: each file names its source and keeps its constants."""
