"""The names of the levels, and of the modes of the ablation."""

#: The three levels of HAD, finest in time first.
LEVELS = ("membrane", "rate", "response")
#: Other forms of two of them: the membranes of each micro-step (`micro_steps.py`), a box's edges (`localisation.py`).
FORMS = ("membrane_steps", "localisation")
#: Modes of the ablation and the levels they switch on; `plain` and `public` are the comparisons of `comparisons.py`.
MODES = {
    "none": (),
    "membrane": ("membrane",),
    "rate": ("rate",),
    "response": ("response",),
    "full": LEVELS,
    "membrane_steps": ("membrane_steps",),
    "localisation": ("response", "localisation"),
    "plain": (),
    "public": (),
}
