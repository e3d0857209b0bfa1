"""Many members at once: where they run, in which programs, in which blocks, and what comes of it."""
