"""What a network costs: spikes, operations and estimated energy, by layer, under every rule in use; and measurements.

profile = profile_student(student, (track_windows(sequence, student.config) for sequence in sequences))
profile.energy_mj()                         # millijoules of one output, exact rule, 45 nm fp32
profile.energy_mj(SDTRACK)                  # the same run under another paper's rule
profile_teacher(teacher).energy_mj()
"""

from had_snn.profiling.counted import CountedStudent
from had_snn.profiling.energy import (
    COSTS,
    EXACT,
    EXACT_MAC,
    HOROWITZ_FP16,
    HOROWITZ_FP32,
    HOROWITZ_INT8,
    LOIHI,
    NEUROBENCH,
    PUBLISHED_MJ,
    PUBLISHED_SOURCE,
    RULES,
    SDTRACK,
    SENECA,
    SNE,
    SPIKEFET,
    CostTable,
    Operations,
    Rules,
)
from had_snn.profiling.macs import CountMismatchError, count_call, profile_module, profile_teacher
from had_snn.profiling.measure import Measurement, measure
from had_snn.profiling.profile import Profile
from had_snn.profiling.records import LayerProfile, NeuronProfile
from had_snn.profiling.windows import TrackWindows, profile_student, track_windows

__all__ = [
    "COSTS",
    "EXACT",
    "EXACT_MAC",
    "HOROWITZ_FP16",
    "HOROWITZ_FP32",
    "HOROWITZ_INT8",
    "LOIHI",
    "NEUROBENCH",
    "PUBLISHED_MJ",
    "PUBLISHED_SOURCE",
    "RULES",
    "SDTRACK",
    "SENECA",
    "SNE",
    "SPIKEFET",
    "CostTable",
    "CountMismatchError",
    "CountedStudent",
    "LayerProfile",
    "Measurement",
    "NeuronProfile",
    "Operations",
    "Profile",
    "Rules",
    "TrackWindows",
    "count_call",
    "measure",
    "profile_module",
    "profile_student",
    "profile_teacher",
    "track_windows",
]
