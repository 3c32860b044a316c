from .conclusion import RunReport as RunReport
from .loop_threads import run_loop as run_loop
from .run_directories import run_directory as run_directory
from .run_options import RunOptions as RunOptions
from .running import arun_job as arun_job
from .running import run_job as run_job
