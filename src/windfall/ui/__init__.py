"""Views of a run: the summary, the report with its figures, the live terminal view and tables. They only read."""
