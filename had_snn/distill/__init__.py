"""Hierarchical asymmetric distillation on plain tensors: membranes, spike rates, responses."""

from had_snn.distill.hierarchy import HierarchicalDistillation, StudentSignals, TeacherSignals, distillation_for

__all__ = ["HierarchicalDistillation", "StudentSignals", "TeacherSignals", "distillation_for"]
