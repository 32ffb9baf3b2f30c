"""`vtsr-doctor`: what is installed, what would be used and why, and whether it computes the right thing."""
