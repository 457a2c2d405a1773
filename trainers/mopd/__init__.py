"""Multi-teacher on-policy distillation (MiMo-V2-Flash, arXiv 2601.02780, section 4.4): one student, a teacher a domain."""

from typing import TYPE_CHECKING

from ...lazy import lazy_names

if TYPE_CHECKING:
    from .mopd_config import MOPDConfig
    from .mopd_trainer import MOPDTrainer
    from .pool import TeacherPool
    from .server_connection import TeacherError
    from .server_teacher import ServerTeacher
    from .teacher_server import serve_teacher
    from .teachers import LoraTeacher

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "mopd_config": "MOPDConfig",
        "mopd_trainer": "MOPDTrainer",
        "pool": "TeacherPool",
        "server_connection": "TeacherError",
        "server_teacher": "ServerTeacher",
        "teacher_server": "serve_teacher",
        "teachers": "LoraTeacher",
    },
)

__all__ = [
    "LoraTeacher",
    "MOPDConfig",
    "MOPDTrainer",
    "ServerTeacher",
    "TeacherError",
    "TeacherPool",
    "serve_teacher",
]
