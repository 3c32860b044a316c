from .accounting import UsageRecord as UsageRecord
from .provider import SimulatorConfig as SimulatorConfig
from .service import Simulator as Simulator
from .service import serve_simulator as serve_simulator
