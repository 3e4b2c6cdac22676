"""Functions that training shows by inputs and outputs alone: what the studies functions and mixture share."""
