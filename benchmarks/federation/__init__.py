"""What a federation costs its trainers, its links and its coordinator: see ``__main__``."""
