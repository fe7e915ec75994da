"""What a frozen teacher has said of a view is kept, and never asked again: by this run, by other seeds, by other jobs.

A table of answers that anyone may read and write at once lies in files of the machine; see `shelf` for where they lie
and how they are bounded, `cells` for how they are checked, `teacher` for how they teach.
"""
