"""The diversity study: which stage of fine-tuning narrows a model, and by how much?"""
