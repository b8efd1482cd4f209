"""The networks: the spiking student and the RGB+event teacher."""

from had_snn.models.outputs import Taps, TrackerOutput
from had_snn.models.state import SearchState
from had_snn.models.student import SpikingTracker, StudentConfig, student_base, student_tiny
from had_snn.models.teacher import RGBETeacher, TeacherConfig, teacher_base, teacher_small, teacher_tiny

__all__ = [
    "RGBETeacher",
    "SearchState",
    "SpikingTracker",
    "StudentConfig",
    "Taps",
    "TeacherConfig",
    "TrackerOutput",
    "student_base",
    "student_tiny",
    "teacher_base",
    "teacher_small",
    "teacher_tiny",
]
