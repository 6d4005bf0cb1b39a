"""The switch from the source to the target: fence, drain, finish; and the way back before the point of no return."""

from replicator.cutover.report import CutoverReport, Report
from replicator.cutover.run import abort, cutover

__all__ = ["CutoverReport", "Report", "abort", "cutover"]
