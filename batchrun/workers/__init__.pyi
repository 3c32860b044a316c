from .factory import WORKERS as WORKERS
from .factory import RayCluster as RayCluster
from .factory import WorkersFactory as WorkersFactory
