"""One analysis on many processes: tasks, and who carries them out."""
