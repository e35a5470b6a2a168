"""One command of `grit` in each file. A command loads what it needs when it runs and leaves the work to others."""
