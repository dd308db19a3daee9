"""What the public functions hand out, by name: for annotations, and for who writes a provider."""

from farebox._call import Call, CallRecord, Usage
from farebox._coverage import Coverage, Surface
from farebox._estimate import Estimate
from farebox._frames import Frame
from farebox._instrument import Instrumentation
from farebox._report import Report
from farebox._reserve import Hold
from farebox._status import Status

__all__ = [
    "Call",
    "CallRecord",
    "Coverage",
    "Estimate",
    "Frame",
    "Hold",
    "Instrumentation",
    "Report",
    "Status",
    "Surface",
    "Usage",
]
