from .input_rows import Source as Source
from .inputs import FileStamp as FileStamp
from .inputs import input_files as input_files
from .inputs import is_table as is_table
from .tables import input_notes as input_notes
