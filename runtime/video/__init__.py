"""Video files, image sequences and raw pipes: frames with exact times, in and out."""
