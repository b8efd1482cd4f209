"""The networks: the spiking student and the RGB+event teacher."""

from had_snn.models.micro_steps import MicroSteps
from had_snn.models.network import SearchNetwork
from had_snn.models.outputs import Taps, TrackerOutput
from had_snn.models.search_state import SearchState
from had_snn.models.student import SpikingTracker, student_base, student_tiny
from had_snn.models.student_config import StudentConfig
from had_snn.models.teacher import RGBETeacher, TeacherConfig, teacher_base, teacher_small, teacher_tiny

__all__ = [
    "MicroSteps",
    "RGBETeacher",
    "SearchNetwork",
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
