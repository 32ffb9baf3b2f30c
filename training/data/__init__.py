"""Training data: scenes of sub-frames rendered from photographs and cut from clips."""
