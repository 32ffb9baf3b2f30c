"""Quality: every method on the same clips, per recursion level, against the exposure average."""
