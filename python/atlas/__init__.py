"""Atlas: a tiered cache in front of slow shared storage, for AI training."""
