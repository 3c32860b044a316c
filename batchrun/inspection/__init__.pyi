from .exporting import Exported as Exported
from .exporting import Since as Since
from .exporting import export as export
from .inspect_log import export_inspect_log as export_inspect_log
from .loading import load_job as load_job
from .rescoring import score as score
from .rescoring import score_text as score_text
from .run_status import status as status
