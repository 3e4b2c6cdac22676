"""Texts and files from elsewhere: documents and their splits, near-duplicates, published pickles."""
