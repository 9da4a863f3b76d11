"""Target binaries: what a module looks like on disk and in a process."""
