"""Diversity: which stage of fine-tuning narrows a model?"""
