"""The program around the library: command line, run folder, checkpoints, progress and figures. No other folder imports it."""
