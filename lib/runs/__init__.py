"""The ledger of fine-tunes: what was trained, at which cost, and in which runs it was evaluated."""
