from .accounting import UsageRecord as UsageRecord
from .service import Simulator as Simulator
from .service import serve_simulator as serve_simulator
from .settings import SimulatorConfig as SimulatorConfig
