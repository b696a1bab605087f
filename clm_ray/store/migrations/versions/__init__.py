"""One file per change of the tables, in one line: each names the one before it. What is released is never edited.

To change the tables: change `tables.py` (or the tables of your own module), add `rNNNN_what.py` here, and name it in `migrate.REVISION`.
"""
