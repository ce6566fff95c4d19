"""What answers cost: our engine beside PEFT's `generate` for several adapters and transformers' continuous batching."""
