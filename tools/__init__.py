"""What maintainers run: set-up, publishing, committed notebooks, cleaning."""
