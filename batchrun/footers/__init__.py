"""The footers of Parquet files: read them, and put the row groups of several files into one."""

from batchrun.footers.row_groups import RowGroupFile, row_group_file

__all__ = ["RowGroupFile", "row_group_file"]
