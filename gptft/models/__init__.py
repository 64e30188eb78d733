"""Bases, tokenizers, adapters, precision, and the one module that reads logits."""
