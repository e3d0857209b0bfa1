"""The program around the library: command line, run folder, checkpoints, progress, figures. Nothing imports this."""
