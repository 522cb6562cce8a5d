"""Permuted language models."""
