"""The loop that all kinds of generation share: requests, their jobs, the queue and its settlement."""
