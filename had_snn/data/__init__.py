"""Sequences to track in: records, data sets, synthetic splits and the clips that networks are trained on."""
