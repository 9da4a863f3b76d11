"""Why a program is refused: what went wrong where, in the words of the source, not of the log."""
