"""What scores are worth: numbers with intervals, calibration, comparisons, slices, precedents."""
