"""Comparison of several ways of training: statistics, plots, an HTML page.

runs                Arm, History, read_arm
against a baseline  difference, Difference, reach, Reach, first_crossing, arm_verdict
JSON, CSV and page  write_report

`charts` draws the plots of the report, and `page` writes its HTML.
"""

from cdt.comparison.arm import Arm, History, read_arm
from cdt.comparison.paired_differences import (
    Difference,
    Reach,
    arm_verdict,
    difference,
    first_crossing,
    reach,
)
from cdt.comparison.report import write_report

__all__ = [
    "Arm", "Difference", "History", "Reach", "arm_verdict", "difference", "first_crossing",
    "reach", "read_arm", "write_report",
]  # fmt: skip
