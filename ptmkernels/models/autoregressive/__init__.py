"""Auto-regressive language models."""
