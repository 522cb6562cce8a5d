"""Corpora, tokenisation and batches."""
