"""Long jobs in segments: each is finished on the disk and noted in a journal, so that a job can go on where it stopped.

Output frames are always made in the same segments, of a fixed number of input frames counted from the first, and every
segment of a video has an encoder of its own. So the output does not depend on when, where or in how many runs they
were made.
"""
