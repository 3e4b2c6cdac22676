"""Tuning Fork: what fine-tuning puts into a language model, and what it leaves out."""
