"""The names of the three levels, and of the modes of the ablation."""

#: The levels, finest in time first.
LEVELS = ("membrane", "rate", "response")
#: Modes of the ablation and the levels they switch on; `plain` and `public` are the comparisons of `comparisons.py`.
MODES = {
    "none": (),
    "membrane": ("membrane",),
    "rate": ("rate",),
    "response": ("response",),
    "full": LEVELS,
    "plain": (),
    "public": (),
}
