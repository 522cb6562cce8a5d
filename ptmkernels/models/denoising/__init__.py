"""Denoising auto-encoders: masked language models and their relatives."""
