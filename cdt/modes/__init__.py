"""The programs behind --mode: one file a mode, called as the mode is called."""
