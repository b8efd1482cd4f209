"""Hierarchical asymmetric distillation on plain tensors: membranes, spike rates, responses."""
