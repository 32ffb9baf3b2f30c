"""INT8: observed ranges to explicit Q/DQ graphs."""
