"""Training: what is optimised (`tasks`) and the loop that optimises it (`loop`)."""
