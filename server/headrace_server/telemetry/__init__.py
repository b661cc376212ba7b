"""What the server tells about itself beside its answers: series made at scrape time, device counters, traces."""
